"""The gRPC side of the server by our compiled front: HTTP/2 outside the interpreter, one call of Python for a batch.

The front (`serving/native`, in Rust) hands over requests one by one. Once one was
answered whose rows may be computed with those of others, further ones like it,
which differ in nothing but their rows, come in batches. What a request means is
decided here and in `Api` alone.
"""

from __future__ import annotations

import logging
import threading
import zlib
from concurrent import futures
from typing import TYPE_CHECKING

from serving.api import Api
from serving.methods import Methods
from serving.models import Limits
from serving.monitor import Monitor
from serving.rpc import address_of, cannot_listen
from serving.settings import Batching
from serving.status import Code, StatusError
from serving.turns import QUEUE_IS_FULL, Call
from serving.wire import Buffer, read_predict

if TYPE_CHECKING:
    from serving import _front

_LOG = logging.getLogger(__name__)
_NO_ROOM = "Too many answers wait for clients that do not read them"
_PATIENCE_S = 60.0
# Signatures that are computed in batches at the same time.
_SIGNATURES = 8
# Requests that wait for a thread beyond those that have one; more are refused at once.
_WAITING_CALLS = 1024
_ZLIB_BITS = {"gzip": 31, "deflate": 15}


def is_built() -> bool:
    """Tells whether the compiled module is installed."""
    try:
        from serving import _front  # noqa: F401
    except ImportError:
        return False
    return True


class FrontServer:
    """The gRPC server, bound when made and answering once started.

    Args:
        methods: what it answers one by one.
        api: what it answers in batches.
        monitor: counts, times and logs.
        limits: what requests may ask for.
        batching: how requests are put together; None is not at all.
        host: address to listen on.
        port: 0 picks a free one.
        threads: requests handled at the same time, one by one.

    Raises:
        ServingError: the port cannot be bound.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        api: Api,
        monitor: Monitor,
        limits: Limits,
        batching: Batching | None,
        host: str,
        port: int,
        threads: int,
    ) -> None:
        from serving import _front

        self._methods, self._api, self._monitor, self._limits = methods, api, monitor, limits
        self._batching = batching or Batching()
        self._never_together = batching is None
        try:
            self.front = _front.Front(
                host,
                port,
                message_bytes=limits.message_bytes,
                unread_bytes=4 * limits.message_bytes,
                patience_s=_PATIENCE_S,
                batch_rows=self._batching.max_batch_size,
                waiting_rows=self._batching.max_enqueued_batches * self._batching.max_batch_size,
                waiting_calls=_WAITING_CALLS,
                batches=self._batching.num_batch_threads,
                fill_time_s=self._batching.batch_timeout_micros / 1e6,
            )
        except OSError as error:
            raise cannot_listen(address_of(host, port), error.strerror or str(error)) from error
        self.port = self.front.port
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="call")
        self._free = threading.Semaphore(threads)
        self._calls: dict[int, Call] = {}
        runners = _SIGNATURES * self._batching.num_batch_threads
        work = [self._take_calls, self._hear_of_the_gone, *[self._take_batches] * runners]
        self._threads = [threading.Thread(target=one, name="front", daemon=True) for one in work]

    def start(self) -> None:
        """Begins to answer."""
        for thread in self._threads:
            thread.start()
        self.front.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Takes no new requests; returns an event that is set when those in flight are answered or time is up."""
        stopped = threading.Event()

        def stop() -> None:
            self.front.drain(grace_s)
            self.front.close()
            self._pool.shutdown(wait=False, cancel_futures=True)
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join(timeout=1)  # one may still be computing what nobody waits for
            stopped.set()

        threading.Thread(target=stop, name="drain").start()
        return stopped

    def _take_calls(self) -> None:
        """Gives requests that come by themselves to threads of their own, as long as there are any."""
        while self._free.acquire() and (asked := self.front.next_call()) is not None:
            self._pool.submit(self._answer, asked).add_done_callback(lambda _: self._free.release())
            del asked  # with its message, while the next one is waited for

    def _hear_of_the_gone(self) -> None:
        """Wakes requests that wait in line for clients that have left."""
        while (gone := self.front.next_left()) is not None:
            for number in gone:
                if call := self._calls.get(number):
                    call.end()

    def _answer(self, asked: _front.Call, *, alone: bool = False) -> None:
        call = Call(asked.timeout_s, has_left=asked.has_left, alone=alone or self._never_together)
        self._calls[asked.id] = call
        try:
            if not asked.answer(self._methods.answer(asked.path, self._message(asked), call)):
                raise StatusError(Code.UNAVAILABLE, _NO_ROOM)
            if call.fits_others and not alone:
                asked.put_together()
        except StatusError as error:
            asked.refuse(error.code, error.message)
        except Exception:  # a bug must not end the thread either
            _LOG.exception("a gRPC request failed")
            asked.refuse(Code.INTERNAL, "the server failed; its log says why")
        finally:
            del self._calls[asked.id]

    def _message(self, asked: _front.Call) -> Buffer:
        """Returns a request's message, unpacked where it is compressed.

        Raises:
            StatusError: it cannot be unpacked, or would be larger than allowed.
        """
        body = memoryview(asked.body)
        if asked.encoding is None:
            return body
        bits = _ZLIB_BITS.get(asked.encoding)
        if bits is None:
            raise StatusError(Code.UNIMPLEMENTED, f"Compression {asked.encoding[:40]!r} is not supported; use gzip")
        unpacking = zlib.decompressobj(bits)
        try:
            message = unpacking.decompress(body, self._limits.message_bytes)
        except zlib.error:
            raise StatusError(Code.INTERNAL, f"The message cannot be unpacked as {asked.encoding}") from None
        if unpacking.unconsumed_tail:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"The message is larger than {self._limits.message_bytes} bytes")
        if not unpacking.eof:
            raise StatusError(Code.INTERNAL, f"The message, packed as {asked.encoding}, is not whole")
        return message

    def _take_batches(self) -> None:
        while (batch := self.front.next_batch()) is not None:
            try:
                self._answer_together(batch)
            except Exception:  # a bug must not end the thread
                _LOG.exception("a batch failed")
                batch.refuse(Code.INTERNAL, "the server failed; its log says why")
            finally:
                batch.computed()
            del batch  # likewise

    def _answer_together(self, batch: _front.Batch) -> None:
        """Answers the requests of a batch; one by one where that fails, so that each hears of its own fault alone."""
        call = Call()
        request = read_predict(memoryview(batch.request))
        name = request.model_spec.name
        self._count_turned_away(name, batch.turned_away)
        try:
            answer = self._api.predict_together(request, dict(batch.inputs), rows=batch.rows, call=call)
        except StatusError as error:
            # Unless it is a row that is bad, the model has changed: what fits together is learnt anew.
            if not call.runtime_s:
                self._count_turned_away(name, batch.forget_kind())
            _LOG.debug("a batch is answered one by one: %s", error.message)
            for asked in batch.calls():
                self._pool.submit(self._answer, asked, alone=True)
            return
        batch.computed()
        code = Code.OK
        if not batch.answer(answer.arrays, answer.heads, answer.rest):
            batch.refuse(Code.UNAVAILABLE, _NO_ROOM)
            code = Code.UNAVAILABLE
        self._monitor.add(
            "Predict", entrypoint="GRPC", model=name, code=code, took_s=batch.waited_s, runtime_s=call.runtime_s
        )

    def _count_turned_away(self, model: str, counts: tuple[int, int, int]) -> None:
        """Counts what the front answered by itself."""
        reasons = (
            (Code.UNAVAILABLE, QUEUE_IS_FULL),
            (Code.DEADLINE_EXCEEDED, "The deadline passed before the request was answered."),
            (Code.CANCELLED, "The client has left."),
        )
        for count, (code, why) in zip(counts, reasons, strict=True):
            if count:
                self._monitor.add_refused("Predict", entrypoint="GRPC", model=model, code=code, why=why, count=count)
