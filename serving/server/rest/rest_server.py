"""The REST API of TensorFlow Serving, version 1: predict, classify, regress, status and metadata; the Prometheus page.

Paths, bodies and texts follow TensorFlow Serving's `g3doc/api_rest.md`. The HTTP
server is waitress, so a slow or silent connection does not occupy a thread.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import waitress.server  # type: ignore[import-untyped]

from serving.protocol import protos
from serving.protocol.status import FAILED, UNREAD, Code, StatusError
from serving.protocol.token import Token
from serving.protocol.wire import Buffer, Predict
from serving.server.admission import AdmissionQueue, Call
from serving.server.compression import Unpacker, packed, takes_gzip
from serving.server.config import SPARE_THREADS
from serving.server.metrics import Entrance, Monitor
from serving.server.models.loaded_model import LoadedModel, Query
from serving.server.models.row_batches import Arrays
from serving.server.rest import example_json, json_tensors, json_values
from serving.server.rest.http_server import UNSENT, HttpServer
from serving.server.rest.pages import Pages
from serving.server.rest.rest_requests import asked, cors_headers, gate, metadata, status
from serving.server.rest.streams import MOST_STREAMS, RETRY_AFTER_S, Client, Stream, Streams
from serving.server.service import Api

_LOG = logging.getLogger(__name__)
# The JSON of a float32 takes up to about 21 bytes, five times as many as the number.
_JSON_PER_BYTE = 5
# The longest answer is this many times the longest body that a request may have.
_ANSWER_BODIES = 4
# All bodies together may take this many times the longest body's length once they are Python objects.
_MEMORY_BODIES = 16
# An answer that is longer than this, in bytes, needs a slot while it is made; shorter ones do not.
_LONG_ANSWER = 1 << 20
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + r":(?P<method>predict|classify|regress)", re.IGNORECASE)
_STREAM = re.compile(r"/stream|" + _MODEL + r"/stream", re.IGNORECASE)
_GET = re.compile(_MODEL + r"(?P<method>/metadata)?", re.IGNORECASE)
# A shorter answer is not compressed, because it fits into one packet.
_SHORT_ANSWER = 1024


class RestServer:
    """The HTTP server. It binds its port when it is made, and answers after `start`.

    Args:
        api: answers the requests.
        monitor: counts, times and logs them.
        host: address to listen on.
        port: 0 picks a free one.
        threads: requests handled at the same time, including `SPARE_THREADS`.
        computing: requests that compute at the same time, the others wait; 0 lets all of them compute.
        timeout_s: longest time that a request takes, in s; None means any time.
        metrics_path: path of the Prometheus page; None means no page.
        cors: let web pages of other sites use the API.
        is_serving: tells whether every model can answer.
        token: what clients must send, except for health; None lets everyone in.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(
        self,
        api: Api,
        *,
        monitor: Monitor,
        host: str,
        port: int,
        threads: int,
        computing: int = 0,
        timeout_s: float | None = 30.0,
        metrics_path: str | None = None,
        cors: bool = False,
        is_serving: Callable[[], bool] = lambda: True,
        token: Token | None = None,
    ) -> None:
        entrance = Entrance("REST", monitor, open_requests=max(1, threads - SPARE_THREADS), computing=computing)
        application = Application(
            api, entrance, timeout_s=timeout_s, metrics_path=metrics_path, cors=cors_headers(cors, token)
        )
        application.pages = Pages(
            api.catalog, is_serving=is_serving, metrics_path=metrics_path, asks_token=token is not None
        )
        self._server = HttpServer(
            application,
            may_ask=gate(token, cors=cors, entrance=entrance),
            host=host,
            port=port,
            threads=threads + MOST_STREAMS,
            body_bytes=api.limits.json_bytes,
            unread_bytes=2 * _ANSWER_BODIES * api.limits.json_bytes,
        )
        application.has_room = self._server.has_room
        self._streams = application.streams
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self, *, grace_s: float) -> None:
        """Takes no new connections, finishes requests in progress for up to `grace_s` seconds, and ends."""
        server = self._server
        self._streams.stop()
        if not self._thread.is_alive():
            server.close()
            return
        server.trigger.pull_trigger(lambda: waitress.server.wasyncore.dispatcher.close(server))
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(
            channel.requests or channel.total_outbufs_len for channel in list(server.active_channels.values())
        ):
            time.sleep(0.02)
        # Worker threads wake the loop through a pipe. Closing the loop closes the pipe, so the threads end first.
        server.task_dispatcher.shutdown()
        woken = threading.Event()

        def end() -> None:
            # An earlier wake-up may run this function while ours is still being written to the pipe. Closing the
            # pipe then would fail that write, so wait for it.
            woken.wait()
            waitress.server.wasyncore.close_all(server._map)  # the loop ends when it has nothing left to watch

        server.trigger.pull_trigger(end)
        woken.set()
        self._thread.join(timeout=10)


class Application:
    """The WSGI application.

    Args:
        api: answers the requests.
        entrance: admits, counts, times and logs them.
        timeout_s: longest time that a request takes, in s; None means any time.
        metrics_path: path of the Prometheus page; None means no page.
        cors: headers that say what web pages of other sites may do; empty if they may do nothing.

    Attributes:
        has_room: tells whether an answer of a given size in bytes may be kept until its client has read it.
        pages: further pages that GET can ask for.
        streams: sounds that are made while the client listens.
    """

    def __init__(
        self,
        api: Api,
        entrance: Entrance,
        *,
        timeout_s: float | None,
        metrics_path: str | None,
        cors: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._api, self._entrance = api, entrance
        self._timeout_s, self._metrics_path, self._cors = timeout_s, metrics_path, cors
        # These queues bound, for all requests together, the bytes of bodies that are read, the memory of what bodies
        # become, and the bytes of long answers that are made.
        size, waiting = api.limits.json_bytes, api.limits.open_requests * api.limits.json_bytes
        self._memory_bytes = _MEMORY_BODIES * size
        self._reading = AdmissionQueue(capacity=size, max_waiting=waiting)
        self._memory = AdmissionQueue(capacity=self._memory_bytes, max_waiting=_MEMORY_BODIES * waiting)
        self._writing = AdmissionQueue(capacity=size, max_waiting=waiting)
        self._unpacker = Unpacker(max_bytes=size, refusal=Code.INVALID_ARGUMENT)
        self.has_room: Callable[[int], bool] = lambda _: True
        self.pages = Pages(api.catalog, is_serving=lambda: True)
        self.streams = Streams(api.catalog)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers one HTTP request."""
        verb, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        kind = "application/json"
        if verb == "GET" and path == self._metrics_path:
            code, kind, body = Code.OK, "text/plain", self._entrance.monitor.page().encode()
        elif verb == "GET" and (page := self.pages.get(path, host=environ.get("HTTP_HOST", "localhost"))):
            code, kind, body = page
        elif verb == "OPTIONS" and self._cors:
            code, body = Code.OK, b""
        else:
            code, value = self._answer(verb, path, environ)
            if isinstance(value, Stream):
                start_response("200 OK", [("Content-Type", "audio/wav"), ("Cache-Control", "no-store"), *self._cors])
                return value
            body = value if isinstance(value, bytes) else _json(value)
        headers = [("Content-Type", kind), *self._cors]
        if code == Code.UNAVAILABLE and _STREAM.fullmatch(path):
            headers.append(("Retry-After", str(RETRY_AFTER_S)))
        if len(body) > _SHORT_ANSWER and takes_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = packed([body], "gzip")
            headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        phrase = HTTPStatus(code.http).phrase if code != Code.CANCELLED else "Client Closed Request"
        start_response(f"{code.http} {phrase}", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, verb: str, path: str, environ: Mapping[str, Any]) -> tuple[Code, Any]:
        try:
            return Code.OK, self._route(verb, path, environ)
        except StatusError as error:
            return error.code, {"error": error.message}
        except Exception:  # a bug must neither end the server nor show its stack trace
            _LOG.exception("a REST request failed")
            return Code.INTERNAL, {"error": FAILED}

    def _route(self, verb: str, path: str, environ: Mapping[str, Any]) -> Any:
        if verb == "POST" and (match := _POST.fullmatch(path)):
            return self._post(match, environ)
        if verb == "GET" and (match := _STREAM.fullmatch(path)):
            return self._stream(match, environ)
        if verb == "GET" and (match := _GET.fullmatch(path)):
            return metadata(self._api, match) if match["method"] else status(self._api, match)
        if verb == "GET" and path.lower() == "/v1/models":
            raise StatusError(Code.INVALID_ARGUMENT, "Missing model name in request.")
        raise StatusError(Code.INVALID_ARGUMENT, f"Malformed request: {verb} {path}")

    def _post(self, match: re.Match[str], environ: Mapping[str, Any]) -> Any:
        method = match["method"].capitalize()
        call = Call(self._timeout_s, is_cancelled=environ.get("waitress.client_disconnected", lambda: False))
        with self._entrance.computes(method, model=match["name"], call=call):
            if method == "Predict":
                request = Predict(asked(protos.PredictRequest(), match))
                [answer] = self._api.predict(request, call, read=functools.partial(self._read, environ))
            else:
                answer = self._examples(method, match, environ, call)
            if len(answer) > _LONG_ANSWER and not self.has_room(len(answer)):
                raise StatusError(Code.UNAVAILABLE, UNREAD)
            return answer

    def _stream(self, match: re.Match[str], environ: Mapping[str, Any]) -> Stream:
        has_left, unsent = (environ.get(key, int) for key in ("waitress.client_disconnected", UNSENT))
        call = Call(is_cancelled=has_left)
        with self._entrance.watches("Stream", model=match["name"] or "", call=call):
            request = asked(protos.GetModelStatusRequest(), match)
            request.model_spec.name = name = match["name"] or self.streams.only_model()
            with self._api.use(request) as model:
                version = model.version
            client = Client(has_left=has_left, unsent=unsent)
            return self.streams.open(name, version, environ.get("QUERY_STRING", ""), client)

    def _examples(self, method: str, match: re.Match[str], environ: Mapping[str, Any], call: Call) -> bytes:
        """Answers `:classify` and `:regress`."""
        kind = protos.ClassificationRequest if method == "Classify" else protos.RegressionRequest
        request = asked(kind(), match)
        with self._body(environ, call) as data:
            example_json.read_examples(data, request)
            if method == "Classify":
                return example_json.write_classes(self._api.classify(request, call).result)
            return example_json.write_values(self._api.regress(request, call).result)

    @contextlib.contextmanager
    def _body(self, environ: Mapping[str, Any], call: Call) -> Iterator[bytes]:
        """Yields the body of a request, unpacked, and holds the memory of what it becomes for the block.

        Raises:
            StatusError: it cannot be unpacked, or would take more memory than all requests may.
        """
        encoding = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
        with contextlib.ExitStack() as stack:
            with self._reading.slot(call, int(environ.get("CONTENT_LENGTH") or 0)):
                packed_body = environ["wsgi.input"].read()
                body = self._unpacker.message(packed_body, None if encoding == "identity" else encoding, call)
                data = bytes(stack.enter_context(body))
                memory = json_values.memory_of(data)
                if memory > self._memory_bytes:
                    raise StatusError(
                        Code.INVALID_ARGUMENT,
                        f"the body would take about {memory >> 20} MiB of memory once it is read, this server's limit "
                        f"is {self._memory_bytes >> 20}; send fewer values, or use gRPC",
                    )
                stack.enter_context(self._memory.slot(call, memory))
            yield data

    @contextlib.contextmanager
    def _read(self, environ: Mapping[str, Any], model: LoadedModel, call: Call) -> Iterator[Query]:
        """Yields a Predict request, and holds the memory of its body and of its answer for the block."""
        with self._body(environ, call) as data:
            body = json_tensors.read_predict_body(model.signatures, data)
            length = self._answer_bytes(body)

            def write(outputs: Arrays) -> list[Buffer]:
                self._require_answerable(json_tensors.string_bytes(outputs))
                return [json_tensors.predictions(outputs, by_row=body.by_row)]

            with self._writing.slot(call, length) if length > _LONG_ANSWER else contextlib.nullcontext():
                yield Query(signature=body.signature, inputs=body.inputs, write=write)

    def _answer_bytes(self, body: json_tensors.PredictBody) -> int:
        """Returns the approximate length of the answer as JSON, in bytes.

        Raises:
            StatusError: INVALID_ARGUMENT if that is above the limit.
        """
        sizes = (len(array) for array in body.inputs.values() if array.ndim)
        rows = max(sizes, default=1) if body.signature.has_rows else 1
        length = rows * body.signature.row_bytes * _JSON_PER_BYTE
        self._require_answerable(length)
        return length

    def _require_answerable(self, length: int) -> None:
        """Refuses an answer of `length` bytes of JSON if that is above the limit.

        Raises:
            StatusError: INVALID_ARGUMENT.
        """
        most = _ANSWER_BODIES * self._api.limits.json_bytes
        if length > most:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"the answer would be about {length >> 20} MiB of JSON, this server's limit is {most >> 20}; "
                "send fewer rows, or use gRPC",
            )


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
