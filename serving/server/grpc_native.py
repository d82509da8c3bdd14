"""The gRPC side of the server by our compiled front: HTTP/2 outside the interpreter, one call of Python for a batch.

The front (`serving/native`, in Rust) hands over requests one by one. Once one was
answered whose rows may be computed with those of others, further ones like it,
which differ in nothing but their rows, come in batches. What a request means is
decided here and in `Api` alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent import futures
from typing import TYPE_CHECKING

from serving.protocol.status import FAILED, Code, StatusError
from serving.protocol.wire import Buffer, read_predict
from serving.server.admission import Call, Line
from serving.server.config_files import Batching
from serving.server.grpc_methods import Methods
from serving.server.grpc_python import address_of, cannot_listen
from serving.server.loaded_model import DEFAULT_SIGNATURE, Limits
from serving.server.metrics import Monitor
from serving.server.service import Api

if TYPE_CHECKING:
    from serving.server import _front

_LOG = logging.getLogger(__name__)
_NO_ROOM = "Too many answers wait for clients that do not read them"
_PATIENCE_S = 60.0
# Signatures that are computed in batches at the same time, and threads for all of them.
_SIGNATURES, _MOST_RUNNERS = 8, 64
# Longest wait for threads of a server that stops, in s: one may still compute what nobody waits for.
_LAST_S = 2.0
# Requests that wait for a thread beyond those that have one; more are refused at once.
_WAITING_CALLS = 1024
_ZLIB_BITS = {"gzip": 31, "deflate": 15}
# Compressed messages that unpack to more than this many bytes need room.
_SMALL_MESSAGE = 64 << 10


def is_built() -> bool:
    """Tells whether the compiled module is installed."""
    try:
        from serving.server import _front  # noqa: F401
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
        from serving.server import _front

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
        self._unpacking = Line(inside=4 * limits.message_bytes, waiting=0)
        self._calls: dict[int, Call] = {}
        runners = min(_SIGNATURES * self._batching.num_batch_threads, _MOST_RUNNERS)
        work = {"calls": [self._take_calls], "news": [self._hear_news], "batches": [self._take_batches] * runners}
        self._threads = [threading.Thread(target=one, name=name, daemon=True) for name in work for one in work[name]]

    def start(self) -> None:
        """Begins to answer."""
        for thread in self._threads:
            thread.start()
        self.front.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Takes no new requests; returns an event that is set when those in flight are answered or time is up."""
        stopped = threading.Event()

        def stop() -> None:
            try:
                self.front.drain(grace_s)
                self.front.close()
                self._pool.shutdown(wait=False, cancel_futures=True)
                end = time.monotonic() + _LAST_S
                for thread in self._threads:
                    if thread.ident is not None:
                        thread.join(timeout=max(0.0, end - time.monotonic()))
            finally:
                stopped.set()

        threading.Thread(target=stop, name="drain").start()
        return stopped

    def _take_calls(self) -> None:
        """Gives requests that come by themselves to threads of their own, as long as there are any."""
        while self._free.acquire() and (asked := self.front.next_call()) is not None:
            self._submit(asked).add_done_callback(lambda _: self._free.release())
            del asked  # with its message, while the next one is waited for

    def _submit(self, asked: _front.Call, *, alone: bool = False) -> futures.Future[None]:
        """Has a thread answer a request; where there is none to be had, it is refused."""
        try:
            return self._pool.submit(self._answer, asked, alone=alone)
        except RuntimeError:  # the server stops, or the system has no more threads
            asked.refuse(Code.UNAVAILABLE, "The server has no thread for the request")
            refused: futures.Future[None] = futures.Future()
            refused.set_result(None)
            return refused

    def _hear_news(self) -> None:
        """Wakes requests that wait in line for clients that have left, and counts what the front refused."""
        while (news := self.front.next_news()) is not None:
            left, refused = news
            for number in left:
                if call := self._calls.get(number):
                    call.end()
            for model, code, why, count in refused:
                self._monitor.add_refused(entrypoint="GRPC", model=model, code=Code(code), why=why, count=count)

    def _answer(self, asked: _front.Call, *, alone: bool) -> None:
        alone = alone or self._never_together
        call = Call(asked.timeout_s, has_left=asked.has_left, alone=alone, waited_s=asked.waited_s)
        self._calls[asked.id] = call
        try:
            with self._message(asked, call) as message:
                answer = self._methods.answer(asked.path, message, call)
            if not asked.answer(answer):
                self._monitor.add_refused(entrypoint="GRPC", model="", code=Code.UNAVAILABLE, why=_NO_ROOM, count=1)
                raise StatusError(Code.UNAVAILABLE, _NO_ROOM)
            if call.fits_others and asked.has_rows:
                spec = read_predict(memoryview(asked.body)).model_spec
                asked.put_together(spec.name, spec.signature_name or DEFAULT_SIGNATURE)
        except StatusError as error:
            asked.refuse(error.code, error.message)
        except Exception:  # a bug must not end the thread either
            _LOG.exception("a gRPC request failed")
            asked.refuse(Code.INTERNAL, FAILED)
        finally:
            del self._calls[asked.id]

    @contextlib.contextmanager
    def _message(self, asked: _front.Call, call: Call) -> Iterator[Buffer]:
        """Gives a request's message, unpacked where it is compressed; large ones only while there is room for them.

        Raises:
            StatusError: it cannot be unpacked, would be larger than allowed, or there is no room.
        """
        if asked.encoding is None:
            yield memoryview(asked.body)
            return
        bits = _ZLIB_BITS.get(asked.encoding)
        if bits is None:
            raise StatusError(Code.UNIMPLEMENTED, f"Compression {asked.encoding[:40]!r} is not supported; use gzip")
        unpacking = zlib.decompressobj(bits)
        most = self._limits.message_bytes
        try:
            first = unpacking.decompress(memoryview(asked.body), _SMALL_MESSAGE)
            if unpacking.eof:
                yield first
                return
            with self._unpacking.turn(call, most):
                message = first + unpacking.decompress(unpacking.unconsumed_tail, most)
                if len(message) > most or unpacking.unconsumed_tail:
                    raise StatusError(Code.RESOURCE_EXHAUSTED, f"The message is larger than {most} bytes")
                if not unpacking.eof:
                    raise StatusError(Code.INTERNAL, f"The message, packed as {asked.encoding}, is not whole")
                yield message
        except zlib.error:
            raise StatusError(Code.INTERNAL, f"The message cannot be unpacked as {asked.encoding}") from None

    def _take_batches(self) -> None:
        while (batch := self.front.next_batch()) is not None:
            try:
                self._answer_together(batch)
            except Exception:  # a bug must not end the thread
                _LOG.exception("a batch failed")
                batch.refuse(Code.INTERNAL, FAILED)
                self._monitor.add_refused(
                    entrypoint="GRPC", model="", code=Code.INTERNAL, why=FAILED, count=len(batch.rows)
                )
            finally:
                batch.computed()
            del batch  # with its requests, while the next one is waited for

    def _answer_together(self, batch: _front.Batch) -> None:
        """Answers the requests of a batch; one by one where that fails, so that each hears of its own fault alone."""
        call = Call()
        request = read_predict(memoryview(batch.request))
        try:
            answer = self._api.predict_together(request, dict(batch.inputs), rows=batch.rows, call=call)
        except StatusError as error:
            # Unless it is a row that is bad, the model has changed: what fits together is learnt anew.
            if not call.runtime_s or error.code == Code.FAILED_PRECONDITION:
                batch.forget_kind()
            _LOG.debug("a batch is answered one by one: %s", error.message)
            for asked in batch.calls():
                self._submit(asked, alone=True)
            return
        batch.computed()
        code = Code.OK
        if not batch.answer(answer.arrays, answer.heads, answer.rest):
            batch.refuse(Code.UNAVAILABLE, _NO_ROOM)
            code = Code.UNAVAILABLE
        self._monitor.add(
            "Predict",
            entrypoint="GRPC",
            model=request.model_spec.name,
            code=code,
            took_s=batch.waited_s,
            runtime_s=call.runtime_s,
        )
