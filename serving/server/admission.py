"""Admission: bounded queues for requests that wait to compute, and a bound on answers that wait to be read.

A request is refused at once (UNAVAILABLE) when a bound is reached, and stops
waiting when its deadline passes or its client disconnects.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from serving.protocol.status import LATE, LEFT, QUEUE_FULL, UNREAD, Code, StatusError

# A request that takes at most this many bytes is not counted: the number of requests in progress is bounded anyway.
SMALL_REQUEST = 64 << 10


class Call:
    """One request in progress: its deadline, whether its client is still there, and the model's time for it.

    Args:
        timeout_s: how long the client waits, in s; None means without a deadline.
        is_cancelled: tells whether the client has disconnected; asked before work begins.
        alone: do not compute it in one batch with other requests.
        waited_s: time since the request arrived, in s.

    Attributes:
        runtime_s: time that the model has taken for it so far, in s.
        fits_others: rows of requests like this one may share a batch; set once the request was answered.
    """

    def __init__(
        self,
        timeout_s: float | None = None,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
        alone: bool = False,
        waited_s: float = 0.0,
    ) -> None:
        self.alone, self.waited_s = alone, waited_s
        self.fits_others = False
        self.runtime_s = 0.0
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._is_cancelled = is_cancelled
        self._cancelled = False
        self._wake: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Records that the client has disconnected; a wait in a queue ends at once."""
        self._cancelled = True
        self._wake()

    def remaining_s(self) -> float | None:
        """Returns how long the client will still wait, in s."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Refuses to begin work that no client waits for.

        Raises:
            StatusError: DEADLINE_EXCEEDED or CANCELLED.
        """
        if self.remaining_s() == 0.0:
            raise StatusError(Code.DEADLINE_EXCEEDED, LATE)
        if self._cancelled or self._is_cancelled():
            raise StatusError(Code.CANCELLED, LEFT)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of its block to `runtime_s`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.runtime_s += time.monotonic() - started

    def wait(self, event: threading.Event) -> None:
        """Waits until the event is set, the client disconnects, or the deadline passes."""
        self._wake = event.set
        if not self._cancelled:
            event.wait(self.remaining_s())


class AdmissionQueue:
    """A semaphore with a bounded queue: first come, first served; a request beyond the bound is refused at once.

    Capacity is counted in units of the caller's choice: rows of a batch, bytes of memory, or requests.

    Args:
        capacity: units that may be in use at the same time.
        max_waiting: units that may wait in the queue.
        why: what a client hears when its request is refused because the queue is full.
    """

    def __init__(self, *, capacity: int, max_waiting: int, why: str = QUEUE_FULL) -> None:
        self._why = why
        self._capacity, self._free, self._max_waiting = capacity, capacity, max_waiting
        self._queue: deque[_Slot] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def slot(self, call: Call, units: int = 1) -> Iterator[None]:
        """Holds `units` of the capacity for its block; a request for more than the capacity gets all of it.

        Raises:
            StatusError: UNAVAILABLE if the queue is full; DEADLINE_EXCEEDED or CANCELLED while the request waits.
        """
        slot = _Slot(min(units, self._capacity))
        self._acquire(slot)
        try:
            call.check()
            while not slot.granted:
                call.wait(slot.woken)
                call.check()
            yield
        finally:
            self._release(slot)

    def _acquire(self, slot: _Slot) -> None:
        with self._lock:
            if not self._queue and slot.units <= self._free:
                self._grant(slot)
            elif sum(other.units for other in self._queue) + slot.units > self._max_waiting:
                raise StatusError(Code.UNAVAILABLE, self._why)
            else:
                self._queue.append(slot)

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            if slot.granted:
                self._free += slot.units
            else:
                self._queue.remove(slot)
            while self._queue and self._queue[0].units <= self._free:
                self._grant(self._queue.popleft())

    def _grant(self, slot: _Slot) -> None:
        self._free -= slot.units
        slot.granted = True
        slot.woken.set()


class _Slot:
    """A request's share of the capacity; `woken` is set when it is granted or the client disconnects."""

    def __init__(self, units: int) -> None:
        self.units, self.granted, self.woken = units, False, threading.Event()


class RequestMemory(AdmissionQueue):
    """Bounds the memory that requests in progress take once they are read; what does not fit is refused at once.

    Args:
        max_bytes: for all requests together.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(capacity=max_bytes, max_waiting=0, why="The memory for requests is used up; try again")
        self._max_bytes = max_bytes

    @contextlib.contextmanager
    def slot(self, call: Call, units: int = 1) -> Iterator[None]:
        """Holds `units` bytes for its block; a request that takes little is not counted.

        Raises:
            StatusError: RESOURCE_EXHAUSTED if the request alone is too large; else as in `AdmissionQueue`.
        """
        if units > self._max_bytes:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"the request would take about {units >> 20} MiB of memory, this server's limit is "
                f"{self._max_bytes >> 20}; split it",
            )
        if units <= SMALL_REQUEST:
            yield
            return
        with super().slot(call, units):
            yield


class UnreadAnswers:
    """Bounds the memory of answers that clients have not read yet.

    Without this bound, clients that ask and never read could fill the server's memory.

    Args:
        max_bytes: bytes of all unread answers together; a single answer may be larger.
        timeout_s: once memory is needed, an answer that was not read for this long is dropped, in s.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._lock = threading.Lock()
        self._used, self._last_id = 0, 0
        # By id, in order of arrival: when it was added, its bytes, and how to drop it.
        self._unread: dict[int, tuple[float, int, Callable[[], object]]] = {}

    def add(self, size: int, drop: Callable[[], object]) -> Callable[[], None]:
        """Reserves memory for an answer and returns a function that frees it (calling it twice does no harm).

        Args:
            size: bytes of the answer.
            drop: ends the answer's call, which then frees the memory.

        Raises:
            StatusError: UNAVAILABLE if the bound is reached; answers older than the timeout are dropped then.
        """
        now = time.monotonic()
        with self._lock:
            if not self._used or self._used + size <= self._max_bytes:
                self._last_id += 1
                self._used += size
                self._unread[self._last_id] = (now, size, drop)
                return functools.partial(self._free, self._last_id)
            expired = [other for since, _, other in self._unread.values() if now - since > self._timeout_s]
        for drop_expired in expired:
            drop_expired()
        raise StatusError(Code.UNAVAILABLE, UNREAD)

    def _free(self, answer_id: int) -> None:
        with self._lock:
            _, size, _ = self._unread.pop(answer_id, (0.0, 0, None))
            self._used -= size
