"""The embedded server: TensorFlow Serving's gRPC and REST APIs for one machine.

Flags, semantics and error codes are tensorflow_model_server's, so a client
moves to the stock binary without a change.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The library's own lines about a taken port say less than our error does.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from serving import protos
from serving.api import Api
from serving.models import Limits, LoadedModel, ModelFolder
from serving.rest import RestServer
from serving.status import Code, StatusError
from tfpipe.errors import ServingError, UsageError

_LOG = logging.getLogger(__name__)
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of the embedded server; names are tensorflow_model_server's flags.

    Attributes:
        model_base_path: folder with one numeric sub-folder for each version.
        model_name: the model's name in requests.
        host: address to listen on; the default is reachable from this machine alone.
        port: gRPC port; 0 picks a free one.
        rest_api_port: REST port; 0 picks a free one, a negative number turns REST off.
        grpc_max_threads: threads that take requests; 0 is as many as may compute and wait, and some to refuse with.
        file_system_poll_wait_seconds: time between two looks for new versions, in s; 0 is one look only.
        enable_model_warmup: run the model's warm-up requests before it serves.
        limits: what requests may ask for.

    Raises:
        UsageError: a port that cannot be.
    """

    model_base_path: Path
    model_name: str = "vae"
    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 8501
    grpc_max_threads: int = 0
    file_system_poll_wait_seconds: float = 1.0
    enable_model_warmup: bool = True
    limits: Limits = field(default_factory=lambda: Limits(running=max(2, os.cpu_count() or 2)))

    def __post_init__(self) -> None:
        for name, least in (("port", 0), ("rest_api_port", -1)):
            if not least <= getattr(self, name) <= 65_535:
                raise UsageError(f"--{name} {getattr(self, name)} is no port; use {least} to 65535")


class Server:
    """The server as an object: binds its ports when made, answers after `start`.

    Attributes:
        port: the gRPC port.
        rest_port: the REST port, or None.

    Raises:
        ServingError: the folder is missing or a port is taken.
    """

    def __init__(self, config: ServerConfig) -> None:
        if not config.model_base_path.is_dir():
            raise ServingError(
                f"{config.model_base_path}: no such folder; give --model_base_path the --output of `tfpipe export`"
            )
        self.config = config
        self._folder = ModelFolder(
            name=config.model_name,
            base_path=config.model_base_path,
            load=lambda path, version: LoadedModel.load(
                path, version=version, limits=config.limits, warmup=config.enable_model_warmup
            ),
        )
        api = Api(self._folder, config.limits)
        threads = config.grpc_max_threads or config.limits.running + config.limits.waiting + 8
        self._grpc = _grpc_server(api, threads=threads, max_bytes=config.limits.message_bytes)
        self._draining = threading.Event()
        self._grpc.add_generic_rpc_handlers((_health_handler(self._is_serving),))
        self.port = _bind_grpc(self._grpc, config.host, config.port)
        self._rest = None if config.rest_api_port < 0 else _bind_rest(api, config, threads=threads)
        self.rest_port = self._rest.port if self._rest else None

    @property
    def versions(self) -> list[int]:
        """Versions that answer now."""
        try:
            known = self._folder.statuses(self.config.model_name)
        except StatusError:
            return []
        return [status.version for status in known if status.state == "AVAILABLE"]

    def start(self) -> None:
        """Loads the newest version, then answers. An empty folder is watched until a version comes."""
        self._folder.start(poll_s=self.config.file_system_poll_wait_seconds)
        self._grpc.start()
        if self._rest:
            self._rest.start()

    def stop(self, *, grace_s: float = 30.0) -> None:
        """Takes no new requests and finishes those in flight, for up to `grace_s` seconds."""
        self._draining.set()
        stopped = self._grpc.stop(grace_s)
        if self._rest:
            self._rest.stop(grace_s=grace_s)
        stopped.wait()
        self._folder.stop()

    def _is_serving(self) -> bool:
        return self._folder.available and not self._draining.is_set()


def serve(config: ServerConfig, *, on_ready: Callable[[Server], None]) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        config: the settings.
        on_ready: called once when the server answers.

    Raises:
        ServingError: as `Server`.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = Server(config)
    server.start()
    if not ended.is_set():
        on_ready(server)
    ended.wait()
    _LOG.info("draining")
    server.stop()


def _grpc_server(api: Api, *, threads: int, max_bytes: int) -> Any:
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc"),
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
        ],
    )
    prediction = {
        "Predict": _method(api.predict, protos.PredictRequest),
        "GetModelMetadata": _method(api.metadata, protos.GetModelMetadataRequest),
        "Classify": _method(api.classify, protos.ClassificationRequest),
        "Regress": _method(api.regress, protos.RegressionRequest),
        "MultiInference": _method(api.multi_inference, protos.MultiInferenceRequest),
    }
    model = {
        "GetModelStatus": _method(api.status, protos.GetModelStatusRequest),
        "HandleReloadConfigRequest": _method(_no_reload, protos.GetModelStatusRequest),
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", prediction),
            grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
        )
    )
    return server


def _method(answer: Callable[..., Any], request_class: Any) -> Any:
    """Wraps a method of `Api` for gRPC; bytes that are no such message become None."""

    def parse(data: bytes) -> Any:
        try:
            return request_class.FromString(data)
        except Exception:  # DecodeError has another base on each protobuf generation
            return _NOT_A_MESSAGE

    return grpc.unary_unary_rpc_method_handler(
        functools.partial(_answer, answer),
        request_deserializer=parse,
        response_serializer=lambda message: message.SerializeToString(),
    )


_NOT_A_MESSAGE = object()


def _answer(answer: Callable[..., Any], request: Any, context: Any) -> Any:
    try:
        if request is _NOT_A_MESSAGE:
            raise StatusError(Code.INTERNAL, "The request is not a message of this method.")
        return answer(request, context.time_remaining())
    except StatusError as error:
        code, message = error.code, error.message
    except Exception:  # a bug must neither end the server nor show its stack
        _LOG.exception("gRPC request failed")
        code, message = Code.INTERNAL, "the server failed; its log says why"
    return context.abort(_CODES[int(code)], message)


def _no_reload(request: Any, timeout_s: float | None = None) -> Any:
    raise StatusError(
        Code.UNIMPLEMENTED, "This server serves one model; start it again with another --model_base_path to change it."
    )


def _health_handler(is_serving: Callable[[], bool]) -> Any:
    """Returns grpc.health.v1.Health with Check."""

    def check(request: Any, timeout_s: float | None) -> Any:
        if request.service not in _SERVICES:
            raise StatusError(Code.NOT_FOUND, f"unknown service {request.service}")
        state = "SERVING" if is_serving() else "NOT_SERVING"
        return protos.HealthCheckResponse(status=state)

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": _method(check, protos.HealthCheckRequest)}
    )


def _bind_grpc(server: Any, host: str, port: int) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise ServingError(
            f"{address}: cannot listen there (taken, or not an address of this machine); choose another --port"
        )
    return int(bound)


def _bind_rest(api: Api, config: ServerConfig, *, threads: int) -> RestServer:
    try:
        return RestServer(api, host=config.host, port=config.rest_api_port, threads=threads)
    except (OSError, ValueError) as error:
        raise ServingError(
            f"{config.host}:{config.rest_api_port}: cannot listen there ({error}); choose another --rest_api_port, "
            "or -1 for no REST"
        ) from error
