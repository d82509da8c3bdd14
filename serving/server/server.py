"""The embedded server: TensorFlow Serving's gRPC and REST APIs for one machine.

Flags, semantics and error codes are tensorflow_model_server's, so a client
moves to the stock binary without a change.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from serving.protocol.status import StatusError
from serving.server.admission import Line
from serving.server.catalog import Catalog
from serving.server.config_files import Batching, ModelSettings, Tls, read_models
from serving.server.grpc_methods import SPARE_THREADS, Methods
from serving.server.grpc_native import FrontServer, is_built
from serving.server.grpc_python import RpcServer
from serving.server.loaded_model import Limits, LoadedModel
from serving.server.metrics import Monitor
from serving.server.rest import RestServer
from serving.server.service import Api
from tfpipe.errors import ServingError, UsageError

_LOG = logging.getLogger(__name__)


FRONT_ENDS = ("auto", "native", "python")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of the embedded server; names are tensorflow_model_server's flags.

    Attributes:
        model_base_path: folder with one numeric sub-folder for each version; None with a `model_config_file`.
        model_name: the model's name in requests.
        model_config_file: text proto with several models, instead of name and folder.
        model_config_file_poll_wait_seconds: time between two readings of that file, in s; 0 reads it once.
        allow_version_labels_for_unavailable_models: a new label may name a version that is not loaded yet.
        host: address to listen on; the default is reachable from this machine alone.
        port: gRPC port; 0 picks a free one.
        rest_api_port: REST port; 0 picks a free one, a negative number turns REST off.
        rest_api_timeout_in_ms: longest wait of a REST request, in ms.
        grpc_max_threads: threads that take requests; 0 is as many as may compute and wait, and some to refuse with.
        grpc_front_end: `native` (compiled, for plain text), `python` (grpcio), or `auto`: native where it can be.
        file_system_poll_wait_seconds: time between two looks for new versions, in s; 0 is one look only.
        enable_model_warmup: run the model's warm-up requests before it serves.
        batching: how requests are put together; None is not at all.
        tls: certificates of the gRPC port; None is plain text.
        metrics_path: path of the Prometheus page on the REST port, or None.
        limits: what requests may ask for.

    Raises:
        UsageError: a port that cannot be, or not exactly one of folder and configuration file.
    """

    model_base_path: Path | None = None
    model_name: str = "vae"
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    allow_version_labels_for_unavailable_models: bool = False
    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 8501
    rest_api_timeout_in_ms: int = 30_000
    grpc_max_threads: int = 0
    grpc_front_end: str = "auto"
    file_system_poll_wait_seconds: float = 1.0
    enable_model_warmup: bool = True
    batching: Batching | None = field(default_factory=Batching)
    tls: Tls | None = None
    metrics_path: str | None = None
    limits: Limits = field(default_factory=lambda: Limits(running=max(2, os.cpu_count() or 2)))

    def __post_init__(self) -> None:
        for name, least in (("port", 0), ("rest_api_port", -1)):
            if not least <= getattr(self, name) <= 65_535:
                raise UsageError(f"--{name} {getattr(self, name)} is no port; use {least} to 65535")
        if (self.model_base_path is None) == (self.model_config_file is None):
            raise UsageError("give --model_base_path or --model_config_file, one of the two")
        if self.grpc_max_threads and self.grpc_max_threads <= SPARE_THREADS:
            raise UsageError(f"--grpc_max_threads {self.grpc_max_threads} is too few; use {SPARE_THREADS + 1} or more")
        if self.grpc_front_end not in FRONT_ENDS:
            raise UsageError(f"--grpc_front_end {self.grpc_front_end} is none; use one of {', '.join(FRONT_ENDS)}")
        if self.grpc_front_end == "native" and self.tls is not None:
            raise UsageError("--grpc_front_end native has no TLS; leave it out or use python")


class Server:
    """The server as an object: it binds its ports when it is made and answers after `start`.

    As a context manager it starts on entry, unless it has been started, and stops on exit.

    Attributes:
        port: the gRPC port.
        rest_port: the REST port, or None.

    Raises:
        ServingError: the folder is missing, a configuration file is wrong, or a port is taken.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._models = _models(config)
        limits, turns = config.limits, Line(inside=config.limits.running, waiting=config.limits.in_hand)
        self.catalog = Catalog(
            lambda path, version: LoadedModel.load(
                path,
                version=version,
                limits=limits,
                turns=turns,
                batching=config.batching,
                warmup=config.enable_model_warmup,
            ),
            poll_s=config.file_system_poll_wait_seconds,
            early_labels=config.allow_version_labels_for_unavailable_models,
        )
        api, monitor = Api(self.catalog, limits), Monitor(self.catalog.knows)
        threads = config.grpc_max_threads or limits.in_hand + SPARE_THREADS
        self._draining = threading.Event()
        self.methods = Methods(api, monitor=monitor, is_serving=self._is_serving, threads=threads)
        self._rpc = _bind_rpc(api, self.methods, monitor, config, threads=threads)
        self.port = self._rpc.port
        self._rest = None if config.rest_api_port < 0 else _bind_rest(api, monitor, config)
        self.rest_port = self._rest.port if self._rest else None
        self._started = False

    def __enter__(self) -> Self:
        if not self._started:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`HOST:PORT` of the gRPC API, as a client takes it."""
        return f"{self.config.host}:{self.port}"

    @property
    def versions(self) -> list[int]:
        """Versions of the first model that answer now, newest first."""
        return self.catalog.versions().get(self._models[0].name, [])

    def start(self) -> None:
        """Loads what is to be served, then answers. A `model_base_path` without versions is watched until one comes.

        Raises:
            ServingError: a model or label of the configuration file cannot be served.
        """
        config, self._started = self.config, True
        try:
            self.catalog.replace(self._models)
        except StatusError as error:
            if config.model_config_file:
                self.catalog.stop()
                raise ServingError(f"{config.model_config_file}: {error.message}") from error
        if config.model_config_file and config.model_config_file_poll_wait_seconds > 0:
            self.catalog.follow(config.model_config_file, poll_s=config.model_config_file_poll_wait_seconds)
        self._rpc.start()
        if self._rest:
            self._rest.start()

    def stop(self, *, grace_s: float = 30.0) -> None:
        """Takes no new requests and finishes those in flight, for up to `grace_s` seconds."""
        self._draining.set()
        stopped = self._rpc.stop(grace_s)
        if self._rest:
            self._rest.stop(grace_s=grace_s)
        stopped.wait()
        self.catalog.stop()

    def _is_serving(self) -> bool:
        versions = self.catalog.versions()
        return bool(versions) and all(versions.values()) and not self._draining.is_set()


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


def _models(config: ServerConfig) -> tuple[ModelSettings, ...]:
    """Returns what to serve, from the flags or from the configuration file."""
    if config.model_config_file is not None:
        models = read_models(config.model_config_file)
        if not models:
            raise ServingError(f"{config.model_config_file}: lists no model")
        return models
    path = config.model_base_path
    if path is None or not path.is_dir():
        raise ServingError(f"{path}: no such folder; give --model_base_path the --output of `tfpipe export`")
    return (ModelSettings(name=config.model_name, base_path=path),)


def _bind_rpc(
    api: Api, methods: Methods, monitor: Monitor, config: ServerConfig, *, threads: int
) -> FrontServer | RpcServer:
    """Returns the gRPC server that the settings ask for.

    Raises:
        ServingError: the port cannot be bound, or the native front end is not there.
    """
    native = config.grpc_front_end == "native" or (config.grpc_front_end == "auto" and config.tls is None)
    if native and is_built():
        return FrontServer(
            methods,
            api=api,
            monitor=monitor,
            limits=config.limits,
            batching=config.batching,
            host=config.host,
            port=config.port,
            threads=threads,
        )
    if config.grpc_front_end == "native":
        raise ServingError(
            "the native front end is not built; install Rust (rustup.rs) and run scripts/setup again, "
            "or use --grpc_front_end python"
        )
    if native:
        _LOG.info("gRPC is answered in Python; with Rust and scripts/setup it would be at over twice the rate")
    return RpcServer(
        methods,
        message_bytes=config.limits.message_bytes,
        host=config.host,
        port=config.port,
        threads=threads,
        tls=config.tls,
    )


def _bind_rest(api: Api, monitor: Monitor, config: ServerConfig) -> RestServer:
    try:
        return RestServer(
            api,
            monitor=monitor,
            host=config.host,
            port=config.rest_api_port,
            threads=config.limits.in_hand + SPARE_THREADS,
            timeout_s=config.rest_api_timeout_in_ms / 1000,
            metrics_path=config.metrics_path,
        )
    except (OSError, ValueError) as error:
        raise ServingError(
            f"{config.host}:{config.rest_api_port}: cannot listen there ({error}); choose another --rest_api_port, "
            "or -1 for no REST"
        ) from error
