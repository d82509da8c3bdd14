"""The REST API of TensorFlow Serving, version 1: predict, status and metadata, and the Prometheus page.

Paths, bodies and texts follow TensorFlow Serving's `g3doc/api_rest.md`. The HTTP
server is waitress, so a slow or silent connection does not occupy a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import waitress.server  # type: ignore[import-untyped]

from serving.protocol import protos
from serving.protocol.status import FAILED, Code, StatusError
from serving.server import json_tensors
from serving.server.admission import AdmissionQueue, Call, open_slots
from serving.server.config import SPARE_THREADS
from serving.server.metrics import Monitor
from serving.server.service import Api

_LOG = logging.getLogger(__name__)
# The JSON of a float32 takes up to about 21 bytes, five times as many as the number.
_JSON_PER_BYTE = 5
# The longest answer is this many times the longest body that a request may have.
_ANSWER_BODIES = 4
# An answer that is longer than this, in bytes, needs a slot while it is made; shorter ones do not.
_LONG_ANSWER = 1 << 20
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + r":(?P<method>predict|classify|regress)", re.IGNORECASE)
_GET = re.compile(_MODEL + r"(?P<method>/metadata)?", re.IGNORECASE)


class RestServer:
    """The HTTP server. It binds its port when it is made, and answers after `start`.

    Args:
        api: answers the requests.
        monitor: counts, times and logs them.
        host: address to listen on.
        port: 0 picks a free one.
        threads: requests handled at the same time, including `SPARE_THREADS`.
        computing: requests that compute at the same time, the others wait; 0 lets all of them compute.
        timeout_s: longest time that a request takes, in s.
        metrics_path: path of the Prometheus page; None means no page.

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
        timeout_s: float = 30.0,
        metrics_path: str | None = None,
    ) -> None:
        logging.getLogger("waitress").setLevel(logging.ERROR)
        slots = open_slots(max(1, threads - SPARE_THREADS), computing=computing)
        self._server = waitress.server.create_server(
            Application(api, monitor, slots, timeout_s=timeout_s, metrics_path=metrics_path),
            host=host,
            port=port,
            threads=threads,
            ident=None,
            max_request_body_size=api.limits.json_bytes,
            inbuf_overflow=1 << 20,  # a body of more bytes is kept in a file
            channel_timeout=30,
            connection_limit=1000,
            channel_request_lookahead=1,  # needed to notice that a client has disconnected
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=True,
        )
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self, *, grace_s: float) -> None:
        """Takes no new connections, finishes requests in progress for up to `grace_s` seconds, and ends."""
        server = self._server
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
        monitor: counts, times and logs them.
        slots: admits requests that compute.
        timeout_s: longest time that a request takes, in s.
        metrics_path: path of the Prometheus page; None means no page.
    """

    def __init__(
        self, api: Api, monitor: Monitor, slots: AdmissionQueue, *, timeout_s: float, metrics_path: str | None
    ) -> None:
        self._api, self._monitor, self._slots = api, monitor, slots
        self._timeout_s, self._metrics_path = timeout_s, metrics_path
        # JSON takes up to thirty times its size once it is Python objects. These queues bound the bytes of bodies
        # that are parsed, and of long answers that are made, at the same time.
        size = api.limits.json_bytes
        self._parsing = AdmissionQueue(capacity=size, max_waiting=api.limits.open_requests * size)
        self._writing = AdmissionQueue(capacity=size, max_waiting=api.limits.open_requests * size)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers one HTTP request."""
        verb, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        if verb == "GET" and path == self._metrics_path:
            code, kind, body = Code.OK, "text/plain", self._monitor.page().encode()
        else:
            code, value = self._answer(verb, path, environ)
            kind, body = "application/json", value if isinstance(value, bytes) else json.dumps(value).encode()
        phrase = HTTPStatus(code.http).phrase if code != Code.CANCELLED else "Client Closed Request"
        start_response(f"{code.http} {phrase}", [("Content-Type", kind), ("Content-Length", str(len(body)))])
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
        if verb == "GET" and (match := _GET.fullmatch(path)):
            return _metadata(self._api, match) if match["method"] else _status(self._api, match)
        raise StatusError(Code.INVALID_ARGUMENT, f"Malformed request: {verb} {path}")

    def _post(self, match: re.Match[str], environ: Mapping[str, Any]) -> Any:
        method = match["method"].capitalize()
        call = Call(self._timeout_s, is_cancelled=environ.get("waitress.client_disconnected", lambda: False))
        with (
            self._monitor.watch(method, entrypoint="REST", model=match["name"], call=call),
            self._slots.slot(call),
        ):
            return self._predict(match, environ, call) if method == "Predict" else _refuse(self._api, match, call)

    def _predict(self, match: re.Match[str], environ: Mapping[str, Any], call: Call) -> bytes:
        with self._api.catalog.use(match["name"], _version(self._api, match)) as model:
            with self._parsing.slot(call, int(environ.get("CONTENT_LENGTH") or 0)):
                body = json_tensors.read_predict_body(model.signatures, environ["wsgi.input"].read())
            length = self._answer_bytes(body)
            with self._writing.slot(call, length) if length > _LONG_ANSWER else contextlib.nullcontext():
                outputs = body.signature.run(body.inputs, call)
                self._require_answerable(json_tensors.string_bytes(outputs))
                return json_tensors.predictions(outputs, by_row=body.by_row)

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


def _status(api: Api, match: re.Match[str]) -> Any:
    # As in TensorFlow Serving, a label in the path is ignored: the answer lists all versions.
    version = int(match["version"]) if match["version"] else None
    return {
        "model_version_status": [
            {
                "version": str(known.version),
                "state": known.state,
                "status": {
                    "error_code": known.error.code.name if known.error else "OK",
                    "error_message": known.error.message if known.error else "",
                },
            }
            for known in api.catalog.statuses(match["name"], version)
        ]
    }


def _metadata(api: Api, match: re.Match[str]) -> Any:
    with api.catalog.use(match["name"], _version(api, match)) as model:
        signatures = {
            name: {
                "inputs": {alias: _info(info) for alias, info in signature.definition.inputs.items()},
                "outputs": {alias: _info(info) for alias, info in signature.definition.outputs.items()},
                "method_name": signature.definition.method_name,
            }
            for name, signature in model.signatures.items()
        }
        return {
            "model_spec": {"name": match["name"], "signature_name": "", "version": str(model.version)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }


def _info(info: Any) -> dict[str, Any]:
    dims = [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim]
    return {
        "dtype": protos.data_type_name(info.dtype),
        "tensor_shape": {"dim": dims, "unknown_rank": info.tensor_shape.unknown_rank},
        "name": info.name,
    }


def _refuse(api: Api, match: re.Match[str], call: Call) -> Any:
    """Refuses classify and regress as the gRPC methods do."""
    classify = match["method"].lower() == "classify"
    request = (protos.ClassificationRequest if classify else protos.RegressionRequest)()
    request.model_spec.name = match["name"]
    version = _version(api, match)
    if version is not None:
        request.model_spec.version.value = version
    return (api.classify if classify else api.regress)(request, call)


def _version(api: Api, match: re.Match[str]) -> int | None:
    """Returns the version that a path names, by number or label; None means the newest."""
    if match["label"]:
        return api.catalog.label(match["name"], match["label"])
    return int(match["version"]) if match["version"] else None
