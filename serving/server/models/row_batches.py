"""Computes the rows of several requests in one call of the model, in the threads of the requests themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol.status import Code, StatusError
from serving.server.config_files import Batching

_LOG = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]


class RowBatches:
    """Forms batches of the requests for one signature.

    At most `num_batch_threads` requests lead at the same time. A request that leads computes one batch, of the requests
    that have waited longest, and then lets another one lead. So batches are as large as the load makes them, and no
    thread looks for work while there is none.

    Args:
        run: runs the model on the rows of a batch, by alias; it returns as many rows.
        batching: sizes and times of batches.
    """

    def __init__(self, run: Run, batching: Batching) -> None:
        self._run, self._batching = run, batching
        self._waiting: deque[_Request] = deque()
        self._leaders = 0
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)  # leaders wait for more rows, see batch_timeout_micros

    def run(self, inputs: Arrays, *, rows: int) -> Arrays:
        """Returns the outputs for the rows of one request, computed in a batch with others.

        Args:
            inputs: by alias.
            rows: rows of each input.

        Raises:
            StatusError: the model failed on the batch.
        """
        mine = _Request(inputs, rows)
        with self._lock:
            self._waiting.append(mine)
            if self._leaders < self._batching.num_batch_threads:
                self._leaders += 1
                mine.leads = True
            else:
                self._more.notify_all()
        while not mine.done or mine.leads:
            if mine.leads:
                if not mine.done:
                    self._compute(self._next_batch())
                self._pass_on(mine)
            else:
                mine.woken.wait()
                mine.woken.clear()
        if mine.error is not None:
            raise StatusError(mine.error.code, mine.error.message) from mine.error
        return mine.outputs

    def _next_batch(self) -> list[_Request]:
        """Takes the requests that have waited longest, as many as fit into a batch; waits for more if there is time."""
        most = self._batching.max_batch_size
        batch: list[_Request] = []
        until = time.monotonic() + self._batching.batch_timeout_micros / 1e6
        with self._lock:
            while 0 < self._waiting_rows() < most and (left := until - time.monotonic()) > 0.0:
                self._more.wait(left)
            rows = 0
            while self._waiting and (not batch or rows + self._waiting[0].rows <= most):
                batch.append(self._waiting.popleft())
                rows += batch[-1].rows
        return batch

    def _waiting_rows(self) -> int:
        """Returns how many rows wait. There are none if another leader has taken them all."""
        return sum(request.rows for request in self._waiting)

    def _compute(self, batch: list[_Request]) -> None:
        """Computes a batch, and wakes its requests with their outputs or with the error."""
        if not batch:  # another leader has taken all
            return
        error: StatusError | None = None
        outputs: Arrays = {}
        try:
            outputs = self._run(
                {alias: _joined([request.inputs[alias] for request in batch]) for alias in batch[0].inputs}
            )
        except StatusError as refused:
            error = refused
        except Exception:  # a request that waits must get an answer
            _LOG.exception("a batch failed")
            error = StatusError(Code.INTERNAL, "the batch could not be computed")
        start = 0
        for request in batch:
            end = start + request.rows
            request.outputs = {alias: array[start:end] for alias, array in outputs.items()}
            request.error, request.done = error, True
            request.woken.set()
            start = end

    def _pass_on(self, mine: _Request) -> None:
        """Lets the request that has waited longest lead in place of `mine`."""
        with self._lock:
            mine.leads = False
            for request in self._waiting:
                if not request.leads:
                    request.leads = True
                    request.woken.set()
                    return
            self._leaders -= 1


class _Request:
    """A request that waits. It is woken when it is done, and when it is to lead."""

    def __init__(self, inputs: Arrays, rows: int) -> None:
        self.inputs, self.rows = inputs, rows
        self.outputs: Arrays = {}
        self.error: StatusError | None = None
        self.done = self.leads = False
        self.woken = threading.Event()


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
