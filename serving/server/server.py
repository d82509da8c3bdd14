"""The embedded server: TensorFlow Serving's gRPC and REST APIs for one machine.

Flags, semantics and error codes are those of tensorflow_model_server, so clients
work with the stock server without a change.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from serving.protocol.status import StatusError
from serving.server.admission import AdmissionQueue
from serving.server.catalog import Catalog
from serving.server.config import SPARE_THREADS, ServerConfig
from serving.server.config_files import ModelSettings, read_models
from serving.server.grpc_methods import Methods
from serving.server.grpc_native import NativeGrpcServer, is_built
from serving.server.grpc_python import PythonGrpcServer
from serving.server.loaded_model import LoadedModel
from serving.server.metrics import Monitor
from serving.server.rest import RestServer
from serving.server.service import Api
from tfpipe.errors import ServingError

_LOG = logging.getLogger(__name__)


class Server:
    """The server. It binds its ports when it is made, and answers after `start`. A `with` block stops it at its end.

    Attributes:
        config: the settings.
        catalog: the models that are served.
        port: the gRPC port.
        rest_port: the REST port, or None.

    Raises:
        ServingError: the folder is missing, a configuration file is wrong, or a port cannot be bound.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._models = _models(config)
        limits = config.limits
        queue = AdmissionQueue(capacity=limits.concurrent_runs, max_waiting=limits.open_requests)
        self.catalog = Catalog(
            lambda path, version: LoadedModel.load(
                path,
                version=version,
                limits=limits,
                queue=queue,
                batching=config.batching,
                warmup=config.enable_model_warmup,
            ),
            poll_s=config.file_system_poll_wait_seconds,
            early_labels=config.allow_version_labels_for_unavailable_models,
        )
        api, monitor = Api(self.catalog, limits), Monitor(self.catalog.knows)
        self._draining = threading.Event()
        self.methods = Methods(api, monitor=monitor, is_serving=self._is_serving, threads=config.threads)
        self._grpc = _bind_grpc(api, self.methods, monitor, config)
        self.port = self._grpc.port
        self._rest = None if config.rest_api_port < 0 else _bind_rest(api, monitor, config)
        self.rest_port = self._rest.port if self._rest else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`HOST:PORT` of the gRPC API, as `serving.client.client.Client` takes it."""
        return f"{self.config.host}:{self.port}"

    @property
    def versions(self) -> list[int]:
        """Versions of the first model that can answer now, newest first."""
        return self.catalog.versions().get(self._models[0].name, [])

    def start(self) -> None:
        """Loads the models, then begins to answer.

        A `model_base_path` without versions is no error: the server watches it until a version is there.

        Raises:
            ServingError: a model or label of the configuration file cannot be served.
        """
        path = self.config.model_config_file
        try:
            self.catalog.replace(self._models)
        except StatusError as error:
            if path:
                self.catalog.stop()
                raise ServingError(f"{path}: {error.message}") from error
        if path and self.config.model_config_file_poll_wait_seconds > 0:
            self.catalog.follow(Path(path), poll_s=self.config.model_config_file_poll_wait_seconds)
        self._grpc.start()
        if self._rest:
            self._rest.start()

    def stop(self, *, grace_s: float = 30.0) -> None:
        """Takes no new requests and finishes those in progress, for up to `grace_s` seconds."""
        self._draining.set()
        stopped = self._grpc.stop(grace_s)
        if self._rest:
            self._rest.stop(grace_s=grace_s)
        stopped.wait()
        self.catalog.stop()

    def _is_serving(self) -> bool:
        versions = self.catalog.versions()
        return bool(versions) and all(versions.values()) and not self._draining.is_set()


def serve(config: ServerConfig, *, on_ready: Callable[[Server], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in progress and returns.

    Args:
        config: the settings.
        on_ready: called once, when the server answers.

    Raises:
        ServingError: see `Server`.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = Server(config)
    server.start()
    if not ended.is_set():
        on_ready(server)
    ended.wait()
    _LOG.info("stopping: finishing the requests in progress")
    server.stop()


def _models(config: ServerConfig) -> tuple[ModelSettings, ...]:
    """Returns the models to serve, from the flags or from the configuration file."""
    if config.model_config_file is not None:
        models = read_models(Path(config.model_config_file))
        if not models:
            raise ServingError(f"{config.model_config_file}: lists no model")
        return models
    path = Path(config.model_base_path or "")
    if not path.is_dir():
        raise ServingError(f"{path}: no such folder; give --model_base_path the --output of `tfpipe export`")
    return (ModelSettings(name=config.model_name, base_path=path),)


def _bind_grpc(
    api: Api, methods: Methods, monitor: Monitor, config: ServerConfig
) -> NativeGrpcServer | PythonGrpcServer:
    """Returns the gRPC server that the settings ask for.

    Raises:
        ServingError: the port cannot be bound, or the native front end is not built.
    """
    native = config.grpc_front_end == "native" or (config.grpc_front_end == "auto" and config.tls is None)
    if native and is_built():
        return NativeGrpcServer(
            methods,
            api=api,
            monitor=monitor,
            limits=config.limits,
            batching=config.batching,
            host=config.host,
            port=config.port,
            threads=config.threads,
        )
    if config.grpc_front_end == "native":
        raise ServingError(
            "the native front end is not built; install Rust (rustup.rs) and install tfpipe again, "
            "or use --grpc_front_end python"
        )
    if native:
        _LOG.info(
            "the native front end is not built, so gRPC is answered in Python, at less than half the rate; "
            "to build it, install Rust and install tfpipe again"
        )
    return PythonGrpcServer(
        methods,
        message_bytes=config.limits.message_bytes,
        host=config.host,
        port=config.port,
        threads=config.threads,
        tls=config.tls,
    )


def _bind_rest(api: Api, monitor: Monitor, config: ServerConfig) -> RestServer:
    try:
        return RestServer(
            api,
            monitor=monitor,
            host=config.host,
            port=config.rest_api_port,
            threads=config.limits.open_requests + SPARE_THREADS,
            timeout_s=config.rest_api_timeout_in_ms / 1000,
            metrics_path=config.metrics_path,
        )
    except (OSError, ValueError) as error:
        raise ServingError(
            f"{config.host}:{config.rest_api_port}: cannot listen there ({error}); choose another --rest_api_port, "
            "or -1 for no REST"
        ) from error
