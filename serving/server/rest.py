"""The REST API of TensorFlow Serving, version 1: predict (row and column), status, metadata.

Bodies and texts follow TensorFlow Serving's `g3doc/api_rest.md`. The HTTP
server is waitress: slow or silent connections cost no thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import numpy as np
import waitress.server  # type: ignore[import-untyped]
from numpy.typing import NDArray

from serving.protocol import protos, tensors
from serving.protocol.status import FAILED, Code, StatusError
from serving.server.admission import Call, Line
from serving.server.loaded_model import DEFAULT_SIGNATURE, Arrays, LoadedModel, Signature
from serving.server.metrics import Monitor
from serving.server.service import Api

_LOG = logging.getLogger(__name__)
# As for gRPC: threads that say no, and answer questions of status, while all others are busy.
_SPARE_THREADS = 8
# A float32 takes about 21 bytes as text. An answer may be as long as so many of the longest bodies.
_JSON_PER_BYTE, _ANSWER_BODIES = 5, 4
# Longer answers are made one after another, shorter ones beside them.
_LONG_ANSWER = 1 << 20
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + r":(?P<method>predict|classify|regress)", re.IGNORECASE)
_GET = re.compile(_MODEL + r"(?P<method>/metadata)?", re.IGNORECASE)


class RestServer:
    """The HTTP server, bound when made and answering once started.

    Args:
        api: what it answers.
        monitor: counts, times and logs.
        host: address to listen on.
        port: 0 picks a free one.
        threads: requests handled at the same time.
        timeout_s: longest wait of a request, in s.
        metrics_path: path of the Prometheus page, or None.

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
        timeout_s: float = 30.0,
        metrics_path: str | None = None,
    ) -> None:
        logging.getLogger("waitress").setLevel(logging.ERROR)
        places = Line(inside=max(1, threads - _SPARE_THREADS), waiting=0)
        self._server = waitress.server.create_server(
            _Application(api, monitor, places, timeout_s=timeout_s, metrics_path=metrics_path),
            host=host,
            port=port,
            threads=threads,
            ident=None,
            max_request_body_size=api.limits.json_bytes,
            inbuf_overflow=1 << 20,  # larger bodies wait in a file
            channel_timeout=30,
            connection_limit=1000,
            channel_request_lookahead=1,  # so that a client's leaving is seen
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=True,
        )
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self, *, grace_s: float) -> None:
        """Takes no new connections, finishes requests in flight for up to `grace_s` seconds, and ends."""
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
        # Threads that answer wake the loop by the pipe which closing the loop closes, so they end first.
        server.task_dispatcher.shutdown()
        woken = threading.Event()

        def end() -> None:
            # Another wake-up may run this before ours is written, and a closed pipe takes none.
            woken.wait()
            waitress.server.wasyncore.close_all(server._map)  # the loop ends when nothing is left to watch

        server.trigger.pull_trigger(end)
        woken.set()
        self._thread.join(timeout=10)


class _Application:
    """The WSGI application."""

    def __init__(self, api: Api, monitor: Monitor, places: Line, *, timeout_s: float, metrics_path: str | None) -> None:
        self._api, self._monitor, self._places = api, monitor, places
        self._timeout_s, self._metrics_path = timeout_s, metrics_path
        # Bytes of JSON being read at the same time: as objects they take up to thirty times as much.
        self._memory = Line(inside=api.limits.json_bytes, waiting=api.limits.in_hand * api.limits.json_bytes)
        self._answers = Line(inside=api.limits.json_bytes, waiting=api.limits.in_hand * api.limits.json_bytes)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
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
        except Exception:  # a bug must neither end the server nor show its stack
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
        call = Call(self._timeout_s, has_left=environ.get("waitress.client_disconnected", lambda: False))
        with (
            self._monitor.watch(method, entrypoint="REST", model=match["name"], call=call),
            self._places.turn(call),
        ):
            return self._predict(match, environ, call) if method == "Predict" else _refuse(self._api, match, call)

    def _predict(self, match: re.Match[str], environ: Mapping[str, Any], call: Call) -> Any:
        with self._api.catalog.use(match["name"], _version(self._api, match)) as model:
            with self._memory.turn(call, int(environ.get("CONTENT_LENGTH") or 0)):
                signature, by_row, inputs = _read(model, environ["wsgi.input"].read())
            length = self._answer_bytes(signature, inputs)
            with self._answers.turn(call, length) if length > _LONG_ANSWER else contextlib.nullcontext():
                outputs = model.run(signature, inputs, call)
                return (
                    b'{"predictions": %b}' % _as_rows(outputs) if by_row else b'{"outputs": %b}' % _as_columns(outputs)
                )

    def _answer_bytes(self, signature: Signature, inputs: Arrays) -> int:
        """Returns about how long the answer will be as JSON, in bytes.

        Raises:
            StatusError: INVALID_ARGUMENT when that is more than a server should have to hold.
        """
        rows = max((len(array) for array in inputs.values() if array.ndim), default=1) if signature.has_rows else 1
        length, most = rows * signature.row_bytes * _JSON_PER_BYTE, _ANSWER_BODIES * self._api.limits.json_bytes
        if length > most:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"the answer to {rows} rows would be about {length >> 20} MiB of JSON, this server's limit is "
                f"{most >> 20}; send fewer rows, or use gRPC",
            )
        return length


def _status(api: Api, match: re.Match[str]) -> Any:
    # As in TensorFlow Serving, a label in the path is ignored here: all versions come back.
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
    classify = match["method"].lower() == "classify"
    request = (protos.ClassificationRequest if classify else protos.RegressionRequest)()
    request.model_spec.name = match["name"]
    version = _version(api, match)
    if version is not None:
        request.model_spec.version.value = version
    return (api.classify if classify else api.regress)(request, call)


def _read(model: LoadedModel, data: bytes) -> tuple[Signature, bool, Arrays]:
    """Reads a body: what to run, whether it came by row, and on what."""
    body = _json(data)
    if not isinstance(body, dict):
        raise StatusError(Code.INVALID_ARGUMENT, "The request must be a JSON object")
    name = body.get("signature_name") or DEFAULT_SIGNATURE
    signature = model.signatures.get(name) if isinstance(name, str) else None
    if signature is None:
        raise StatusError(Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
    by_row = _is_by_row(body)
    return signature, by_row, _rows(signature, body["instances"]) if by_row else _columns(signature, body["inputs"])


def _version(api: Api, match: re.Match[str]) -> int | None:
    if match["label"]:
        return api.catalog.label(match["name"], match["label"])
    return int(match["version"]) if match["version"] else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise StatusError(Code.INVALID_ARGUMENT, "JSON Parse error: nested too deeply") from None
    except ValueError as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"JSON Parse error: {error}") from None


def _is_by_row(body: Mapping[str, Any]) -> bool:
    by_row, by_column = "instances" in body, "inputs" in body
    if by_row and by_column:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        )
    if not by_row and not by_column:
        raise StatusError(Code.INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    return by_row


def _rows(signature: Signature, instances: Any) -> Arrays:
    """Reads the row format: a list of values, or of objects with one value for each input."""
    if not isinstance(instances, list):
        raise StatusError(Code.INVALID_ARGUMENT, "Expecting 'instances' value to be a list/array")
    if not instances:
        raise StatusError(Code.INVALID_ARGUMENT, "No values in 'instances' array")
    wanted = signature.definition.inputs
    if not _is_object(instances[0]):
        return _columns(signature, instances)
    columns: dict[str, list[Any]] = {alias: [] for alias in wanted}
    for row in instances:
        if not _is_object(row) or set(row) != set(wanted):
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Every instance must be an object with the keys {sorted(wanted)}, as the signature has",
            )
        for alias, value in row.items():
            columns[alias].append(value)
    return _columns(signature, columns)


def _columns(signature: Signature, inputs: Any) -> Arrays:
    """Reads the column format: an object with one batch for each input, or the batch alone for a sole input."""
    wanted = signature.definition.inputs
    if not _is_object(inputs):
        if len(wanted) != 1:
            raise StatusError(Code.INVALID_ARGUMENT, f"The signature has the inputs {sorted(wanted)}: name each")
        inputs = dict.fromkeys(wanted, inputs)
    if set(inputs) != set(wanted):
        raise StatusError(
            Code.INVALID_ARGUMENT, f"The inputs {sorted(inputs)} are not the signature's, which are {sorted(wanted)}"
        )
    return {alias: _array(alias, value, wanted[alias].dtype) for alias, value in inputs.items()}


def _array(alias: str, value: Any, number: int) -> NDArray[Any]:
    """Returns JSON numbers, booleans or strings as an array of the signature's type."""
    dtype = tensors.dtype_of(number)
    if dtype.kind == "O":
        value = _decoded(value)
    try:
        array = np.array(value, dtype=object if dtype.kind == "O" else None)
        kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "O"}[dtype.kind]
        if array.size and (array.dtype.kind not in kinds or (dtype.kind == "O" and not _all_bytes(array))):
            raise ValueError("wrong type")
        if array.size and dtype.kind in "iu" and not _in_range(array, dtype):
            raise ValueError("out of range")
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except (ValueError, TypeError, ArithmeticError):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"'{alias}' is not a rectangular array of {protos.data_type_name(number)}: "
            "ragged, of another type, or out of range",
        ) from None


def _decoded(value: Any) -> Any:
    """Replaces strings and `{"b64": ...}` objects by bytes."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise StatusError(Code.INVALID_ARGUMENT, "Unable to base64 decode") from None
    return value


def _all_bytes(array: NDArray[Any]) -> bool:
    return all(isinstance(item, bytes) for item in array.flat)


def _in_range(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(array.min()) >= limits.min and int(array.max()) <= limits.max


def _is_object(value: Any) -> bool:
    """Tells a JSON object from a value; `{"b64": ...}` is a value."""
    return isinstance(value, dict) and set(value) != {"b64"}


def _as_rows(outputs: Arrays) -> bytes:
    if len(outputs) == 1:
        [(alias, array)] = outputs.items()
        return _text(alias, array)
    if any(array.ndim == 0 for array in outputs.values()) or len({len(array) for array in outputs.values()}) != 1:
        raise StatusError(
            Code.INVALID_ARGUMENT, "The outputs have no common batch dimension: use the column format ('inputs')"
        )
    rows = zip(*outputs.values(), strict=True)
    return _listed({alias: _plain(alias, value) for alias, value in zip(outputs, row, strict=True)} for row in rows)


def _as_columns(outputs: Arrays) -> bytes:
    if len(outputs) == 1:
        [(alias, array)] = outputs.items()
        return _text(alias, array)
    return b"{%b}" % b", ".join(
        b"%b: %b" % (json.dumps(alias).encode(), _text(alias, outputs[alias])) for alias in outputs
    )


def _text(alias: str, array: NDArray[Any]) -> bytes:
    """Returns an array as JSON, row by row: numbers as objects take much memory, and making them stops all else."""
    return _listed(_plain(alias, row) for row in array) if array.ndim else json.dumps(_plain(alias, array)).encode()


def _listed(values: Iterable[Any]) -> bytes:
    return b"[%b]" % b", ".join(json.dumps(value).encode() for value in values)


def _plain(alias: str, array: Any) -> Any:
    """Returns an array, or one element, as JSON values; bytes are text, or base64 if the alias ends in `_bytes`."""
    if isinstance(array, np.ndarray | np.generic) and array.dtype.kind != "O":
        return array.tolist()
    as_base64 = alias.endswith("_bytes")

    def text(value: bytes) -> Any:
        return {"b64": base64.b64encode(value).decode()} if as_base64 else value.decode("utf-8", "replace")

    def walk(value: Any) -> Any:
        return [walk(item) for item in value] if isinstance(value, list) else text(value)

    return walk(array.tolist() if isinstance(array, np.ndarray) else array)
