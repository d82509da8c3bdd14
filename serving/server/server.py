"""The embedded server: TensorFlow Serving's gRPC and REST APIs for one machine.

Flags, semantics and error codes are those of tensorflow_model_server, so clients
work with the stock server without a change.
"""

from __future__ import annotations

import ipaddress
import logging
import shlex
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from serving.protocol.names import is_version
from serving.protocol.status import StatusError
from serving.server.admission import AdmissionQueue
from serving.server.config import SPARE_THREADS, ServerConfig
from serving.server.config_files import ModelSettings, read_models
from serving.server.grpc.native_server import CertificatesError, NativeGrpcServer, is_built
from serving.server.grpc.python_server import PythonGrpcServer
from serving.server.metrics import Monitor
from serving.server.models.catalog import Catalog
from serving.server.models.loaded_model import LoadedModel
from serving.server.models.model_files import is_url, require_readable
from serving.server.models.versions import LOADING_S, Retries
from serving.server.rest.http_server import allow_more_files
from serving.server.rest.rest_server import RestServer
from serving.server.service import Api, Methods
from tfpipe.errors import ServingError
from tfpipe.process.exit_status import skip_cleanup

_LOG = logging.getLogger(__name__)
# How often a server that is starting checks whether it must end, in s.
_LOOK_S = 0.1


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
                how=config,
            ),
            poll_s=config.file_system_poll_wait_seconds,
            retries=Retries(most=config.max_num_load_retries, wait_s=config.load_retry_interval_micros / 1e6),
            early_labels=config.allow_version_labels_for_unavailable_models,
        )
        api = Api(self.catalog, limits, tensor_content=config.tensor_content, allow_reload=config.reload_is_allowed)
        monitor = Monitor(self.catalog.knows)
        self._draining = threading.Event()
        self._loaded = threading.Event()
        self.methods = Methods(api, monitor=monitor, is_serving=self._is_serving, computing=config.grpc_max_threads)
        self._grpc = _bind_grpc(api, self.methods, monitor, config)
        self._socket = _bind_socket(self.methods, config) if isinstance(self._grpc, NativeGrpcServer) else None
        self.port = self._grpc.port
        self._rest = self._bind_rest(api, monitor) if config.rest_api_port >= 0 and config.tls is None else None
        if config.rest_api_port >= 0 and config.tls is not None:
            _LOG.warning("REST is off, because it has no TLS: anyone could use it to bypass --ssl_config_file")
        if config.token and config.tls is None and not _is_loopback(config.host):
            _LOG.warning(
                "%s can be reached from other machines, and the token travels in plain text; add --ssl_config_file",
                config.host,
            )
        self.rest_port = self._rest.port if self._rest else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Host and port of the gRPC API in one text, as `serving.client.client.Client` takes them."""
        return f"{in_address(self.config.host)}:{self.port}"

    @property
    def versions(self) -> list[int]:
        """Versions of the first model that can answer now, newest first."""
        return next(iter(self.catalog.versions().values()), [])

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
        self._loaded.set()
        self._grpc.start()
        if self._socket:
            self._socket.start()
        if self._rest:
            self._rest.start()

    def stop(self, *, grace_s: float = 30.0) -> None:
        """Takes no new requests and finishes those in progress, for up to `grace_s` seconds."""
        self._draining.set()
        stopped = [server.stop(grace_s) for server in (self._grpc, self._socket) if server]
        if self._rest:
            self._rest.stop(grace_s=grace_s)
        for event in stopped:
            event.wait()
        self.catalog.stop()

    def _bind_rest(self, api: Api, monitor: Monitor) -> RestServer:
        config = self.config
        try:
            return RestServer(
                api,
                monitor=monitor,
                host=config.host,
                port=config.rest_api_port,
                threads=_threads(config),
                computing=config.rest_api_num_threads,
                timeout_s=config.rest_api_timeout_in_ms / 1000 if config.rest_api_timeout_in_ms > 0 else None,
                metrics_path=config.metrics_path,
                cors=config.rest_cors,
                is_serving=self._is_serving,
                token=config.token,
            )
        except (OSError, ValueError) as error:
            raise ServingError(
                f"{config.host}:{config.rest_api_port}: cannot listen there ({error}); choose another --rest_api_port, "
                "or -1 for no REST"
            ) from error

    def _is_serving(self) -> bool:
        """Tells whether every model can answer. A server that is to have no models yet can answer too."""
        return self._loaded.is_set() and not self._draining.is_set() and all(self.catalog.versions().values())


def serve(config: ServerConfig, *, on_ready: Callable[[Server], None]) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in progress and returns.

    Args:
        config: the settings.
        on_ready: called once, when the server answers.

    Raises:
        ServingError: see `Server`.
    """
    allow_more_files()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = Server(config)
    if not _start(server, ended):
        skip_cleanup()
        return
    if not ended.is_set():
        on_ready(server)
    ended.wait()
    _LOG.info("stopping: finishing the requests in progress")
    server.stop()


def _start(server: Server, ended: threading.Event) -> bool:
    """Starts a server in a thread, so that a model that never loads cannot keep the process from ending.

    Returns:
        False if `ended` was set and the start did not end soon after.
    """
    errors: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=start, name="start", daemon=True)
    thread.start()
    while thread.is_alive() and not ended.is_set():
        thread.join(timeout=_LOOK_S)
    thread.join(timeout=LOADING_S)
    if errors:
        raise errors[0]
    return not thread.is_alive()


def _models(config: ServerConfig) -> tuple[ModelSettings, ...]:
    """Returns the models to serve, from the flags or from the configuration file."""
    if config.model_config_file:
        if config.model_base_path:
            _LOG.warning("--model_base_path and --model_name are ignored, because there is a --model_config_file")
        return read_models(Path(config.model_config_file)) or ()
    path = config.model_base_path or ""
    if is_url(path):
        require_readable(str(path))
        return (ModelSettings(name=config.model_name, base_path=str(path)),)
    if not Path(path).is_dir():
        raise ServingError(f"{path}: no such folder; give --model_base_path the --output of `tfpipe export`")
    _refuse_version(Path(path))
    return (ModelSettings(name=config.model_name, base_path=Path(path)),)


def _refuse_version(folder: Path) -> None:
    """Refuses the folder of a version, in which TensorFlow Serving would wait for a version that never comes."""
    named = folder if is_version(folder.name) else folder.resolve()  # `.` has no name of its own
    if is_version(named.name) and (named / "saved_model.pb").is_file():
        raise ServingError(f"{folder}: is a version; use --model_base_path {shlex.quote(str(named.parent))}")


def _bind_grpc(
    api: Api, methods: Methods, monitor: Monitor, config: ServerConfig
) -> NativeGrpcServer | PythonGrpcServer:
    """Returns the gRPC server that the settings ask for.

    Raises:
        ServingError: the port cannot be bound, the certificates do not fit, or the native front end is not built.
    """
    must_be_native = config.grpc_front_end == "native"
    native = must_be_native or (config.grpc_front_end == "auto" and not config.grpc_channel_arguments)
    if config.grpc_channel_arguments:
        _LOG.info("gRPC is answered in Python, because --grpc_channel_arguments are options of grpcio")
    if native and is_built():
        try:
            return NativeGrpcServer(
                methods,
                api=api,
                monitor=monitor,
                limits=config.limits,
                batching=config.batching,
                host=config.host,
                port=config.port,
                threads=_threads(config),
                tls=config.tls,
                token=config.token,
            )
        except CertificatesError as error:
            if must_be_native:
                raise
            _LOG.warning("gRPC is answered in Python, at less than half the rate, because of %s", error)
    elif must_be_native:
        raise ServingError(
            "the native front end is not built; install Rust (rustup.rs) and install tfpipe again, "
            "or use --grpc_front_end python"
        )
    elif native:
        _LOG.info(
            "the native front end is not built, so gRPC is answered in Python, at less than half the rate; "
            "to build it, install Rust and install tfpipe again"
        )
    return PythonGrpcServer(
        methods,
        message_bytes=config.limits.message_bytes,
        threads=_threads(config),
        host=config.host,
        port=config.port,
        socket_path=config.grpc_socket_path,
        channel_arguments=config.channel_arguments,
        tls=config.tls,
        token=config.token,
    )


def _bind_socket(methods: Methods, config: ServerConfig) -> PythonGrpcServer | None:
    """Returns the server of the Unix socket, on which the native front end does not listen; None without a path."""
    if not config.grpc_socket_path:
        return None
    return PythonGrpcServer(
        methods,
        message_bytes=config.limits.message_bytes,
        threads=_threads(config),
        socket_path=config.grpc_socket_path,
        tls=config.tls,
        token=config.token,
    )


def in_address(host: str) -> str:
    """Returns a host as it stands before `:PORT`: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _threads(config: ServerConfig) -> int:
    """Returns the number of threads of a gRPC server: one for each open request, and the spare ones."""
    return config.limits.open_requests + SPARE_THREADS
