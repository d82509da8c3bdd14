"""The native gRPC server: compiled code speaks HTTP/2 and forms batches; Python is called once for each batch.

The compiled module (`serving/native`, in Rust) hands over requests one by one at
first. Once Python has answered a request and said that its rows may share a batch
(`Call.fits_others`), later requests that differ from it only in their rows come
as batches. The compiled module knows nothing of models: only Python decides what a
request means.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import TYPE_CHECKING

from serving.protocol.names import DEFAULT_SIGNATURE
from serving.protocol.status import FAILED, UNREAD, Code, StatusError
from serving.protocol.token import Token
from serving.protocol.wire import read_predict
from serving.server.admission import Call
from serving.server.compression import Unpacker, is_known, packed
from serving.server.config import Limits
from serving.server.config_files import Batching, Tls
from serving.server.grpc.python_server import UNREAD_TIMEOUT_S, address_of, cannot_listen
from serving.server.metrics import Monitor
from serving.server.service import Api, Methods
from tfpipe.errors import ServingError

if TYPE_CHECKING:
    from serving.server import _front

_LOG = logging.getLogger(__name__)
# How many signatures can compute their batches at the same time, and the most threads that they may take together.
_BATCHED_SIGNATURES, _MAX_BATCH_THREADS = 8, 64
# A server that stops waits this long for its threads, in s. One may still compute an answer that no client wants.
_JOIN_S = 2.0
# Time before a thread that failed goes on, in s.
_AFTER_FAILURE_S = 0.1
# Requests that may wait for a thread; more are refused at once.
_WAITING_CALLS = 1024


class CertificatesError(ServingError):
    """The compiled module cannot use the key or the certificates."""


def is_built() -> bool:
    """Tells whether the compiled module is installed."""
    try:
        from serving.server import _front  # noqa: F401
    except ImportError:
        return False
    return True


class NativeGrpcServer:
    """The gRPC server. It binds its port when it is made, and answers after `start`.

    Args:
        methods: answers single requests.
        api: answers batches.
        monitor: counts, times and logs requests.
        limits: how large requests may be.
        batching: sizes and times of batches; None turns batching off.
        host: address to listen on.
        port: 0 picks a free one.
        threads: single requests handled at the same time.
        tls: certificates; None means plain text.
        token: what clients must send, except for health; None lets everyone in.

    Raises:
        CertificatesError: the key or the certificates cannot be used.
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
        tls: Tls | None = None,
        token: Token | None = None,
    ) -> None:
        from serving.server import _front

        self._methods, self._api, self._monitor = methods, api, monitor
        self._batching = batching or Batching()
        self._batching_is_off = batching is None
        try:
            self.native = _front.Front(
                host,
                port,
                message_bytes=limits.message_bytes,
                unread_bytes=4 * limits.message_bytes,
                patience_s=UNREAD_TIMEOUT_S,
                batch_rows=self._batching.max_batch_size,
                waiting_rows=self._batching.max_enqueued_batches * self._batching.max_batch_size,
                waiting_calls=_WAITING_CALLS,
                batches=self._batching.num_batch_threads,
                fill_time_s=self._batching.batch_timeout_micros / 1e6,
                tls=None if tls is None else (tls.key, tls.certificate, tls.client_ca if tls.client_verify else None),
                token=token.value if token else None,
            )
        except ValueError as error:
            raise CertificatesError(
                f"--ssl_config_file: {error}; write a key and X.509 v3 certificates that fit each other"
            ) from error
        except OSError as error:
            raise cannot_listen(address_of(host, port), error.strerror or str(error)) from error
        self.port = self.native.port
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="call")
        self._free = threading.Semaphore(threads)
        self._unpacker = Unpacker(max_bytes=limits.message_bytes)
        self._calls: dict[int, Call] = {}
        batch_threads = min(_BATCHED_SIGNATURES * self._batching.num_batch_threads, _MAX_BATCH_THREADS)
        loops = [self._take_calls, self._take_events, *[self._take_batches] * batch_threads]
        self._threads = [
            threading.Thread(target=_keep_running, args=(loop,), name=loop.__name__.strip("_"), daemon=True)
            for loop in loops
        ]

    def start(self) -> None:
        """Begins to answer."""
        for thread in self._threads:
            thread.start()
        self.native.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Takes no new requests; returns an event that is set once those in progress are answered or time is up."""
        stopped = threading.Event()

        def stop() -> None:
            try:
                self.native.drain(grace_s)
                self.native.close()
                self._pool.shutdown(wait=False, cancel_futures=True)
                end = time.monotonic() + _JOIN_S
                for thread in self._threads:
                    if thread.ident is not None:
                        thread.join(timeout=max(0.0, end - time.monotonic()))
            finally:
                stopped.set()

        threading.Thread(target=stop, name="drain").start()
        return stopped

    def _take_calls(self) -> None:
        """Gives each single request to a thread of the pool; waits while all threads are busy."""
        while self._free.acquire():
            asked = None
            try:
                asked = self.native.next_call()
            finally:
                if asked is None:
                    self._free.release()
            if asked is None:
                return
            self._submit(asked).add_done_callback(lambda _: self._free.release())
            del asked  # frees its message while this thread waits for the next request

    def _submit(self, asked: _front.Call, *, alone: bool = False) -> futures.Future[None]:
        """Starts answering a request in a thread of the pool; refuses it if there is no thread."""
        try:
            return self._pool.submit(self._answer, asked, alone=alone)
        except RuntimeError:  # the server is stopping, or the system has no more threads
            asked.refuse(Code.UNAVAILABLE, "The server has no thread for the request")
            refused: futures.Future[None] = futures.Future()
            refused.set_result(None)
            return refused

    def _take_events(self) -> None:
        """Cancels requests whose clients have disconnected, and counts what the compiled module refused."""
        while (events := self.native.next_news()) is not None:
            disconnected, refused = events
            for call_id in disconnected:
                if call := self._calls.get(call_id):
                    call.cancel()
            for model, code, why, count in refused:
                self._monitor.add_refused(entrypoint="GRPC", model=model, code=Code(code), why=why, count=count)

    def _answer(self, asked: _front.Call, *, alone: bool) -> None:
        alone = alone or self._batching_is_off
        call = Call(asked.timeout_s, is_cancelled=asked.has_left, alone=alone, waited_s=asked.waited_s)
        self._calls[asked.id] = call
        try:
            with self._unpacker.message(memoryview(asked.body), asked.encoding, call) as message:
                answer = self._methods.answer(asked.path, message, call)
            # A client that compresses its request gets its answer compressed too.
            compressed = asked.encoding if is_known(asked.encoding) else None
            parts = [packed(answer, compressed)] if compressed else answer
            if not asked.answer(parts, compressed=compressed is not None):
                self._monitor.add_refused(entrypoint="GRPC", model="", code=Code.UNAVAILABLE, why=UNREAD, count=1)
                raise StatusError(Code.UNAVAILABLE, UNREAD)
            if call.fits_others and asked.has_rows:
                spec = read_predict(memoryview(asked.body)).model_spec
                asked.put_together(spec.name, spec.signature_name or DEFAULT_SIGNATURE)
        except StatusError as error:
            asked.refuse(error.code, error.message)
        except BaseException:  # neither a bug nor a panic of the compiled module may end the thread
            _LOG.exception("a gRPC request failed")
            asked.refuse(Code.INTERNAL, FAILED)
        finally:
            del self._calls[asked.id]

    def _take_batches(self) -> None:
        while (batch := self.native.next_batch()) is not None:
            try:
                self._answer_batch(batch)
            except BaseException:  # neither a bug nor a panic of the compiled module may end the thread
                _LOG.exception("a batch failed")
                batch.refuse(Code.INTERNAL, FAILED)
                self._monitor.add_refused(
                    entrypoint="GRPC", model="", code=Code.INTERNAL, why=FAILED, count=len(batch.rows)
                )
            finally:
                batch.computed()
            del batch  # frees its requests while this thread waits for the next batch

    def _answer_batch(self, batch: _front.Batch) -> None:
        """Answers a batch. If that fails, answers its requests one by one, so that only the bad one fails."""
        call = Call()
        request = read_predict(memoryview(batch.request))
        try:
            answer = self._api.predict_batch(request, dict(batch.inputs), rows=batch.rows, call=call)
        except StatusError as error:
            # Either a row is bad, or the model has changed. In the second case the compiled module must stop forming
            # such batches until a single request has been answered again.
            if not call.runtime_s or error.code == Code.FAILED_PRECONDITION:
                batch.forget_kind()
            _LOG.debug("the requests of a failed batch are answered one by one: %s", error.message)
            for asked in batch.calls():
                self._submit(asked, alone=True)
            return
        batch.computed()
        code = Code.OK
        if not batch.answer(answer.arrays, answer.heads, answer.rest):
            batch.refuse(Code.UNAVAILABLE, UNREAD)
            code = Code.UNAVAILABLE
        self._monitor.add(
            "Predict",
            entrypoint="GRPC",
            model=request.model_spec.name,
            code=code,
            took_s=batch.waited_s,
            runtime_s=call.runtime_s,
        )


def _keep_running(loop: Callable[[], None]) -> None:
    """Runs a thread's loop until the server is closed, and again if it fails.

    A panic of the compiled module is a BaseException, which `except Exception` would not catch.
    """
    while True:
        try:
            return loop()
        except BaseException:
            _LOG.exception("a thread of the gRPC server failed; it goes on")
            time.sleep(_AFTER_FAILURE_S)
