"""The settings of the embedded server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.protocol.names import MODEL_NAME
from serving.protocol.token import TOKEN_VARIABLE, Token, read_token
from serving.server.config_files import Batching, Tls, read_batching, read_metrics_path, read_tls
from tfpipe.errors import UsageError
from tfpipe.settings import check, setting

FRONT_ENDS = ("auto", "native", "python")
# Flags of tensorflow_model_server that change nothing here, and the types of their values.
IGNORED_FLAGS: dict[str, type] = {
    "enable_grpc_healthcheck_service": bool,
    "enable_profiler": bool,
    "enable_signature_method_name_check": bool,
    "flush_filesystem_caches": bool,
    "mixed_precision": str,
    "num_load_threads": int,
    "num_tflite_interpreters_per_pool": int,
    "num_tflite_pools": int,
    "num_unload_threads": int,
    "per_process_gpu_memory_fraction": float,
    "platform_config_file": str,
    "prefer_tflite_model": bool,
    "remove_unused_fields_from_bundle_metagraph": bool,
    "skip_initialize_tpu": bool,
    "tensorflow_session_config_file": str,
    "thread_pool_factory_config_file": str,
    "use_alts_credentials": bool,
    "xla_cpu_compilation_enabled": bool,
    "xla_gpu_compilation_enabled": bool,
}
# While all other threads compute or wait, these still refuse requests and answer status and health.
SPARE_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large requests may be, and how many the server takes at the same time.

    Raises:
        UsageError: a value has the wrong type or is out of range.
    """

    message_bytes: int = setting(
        128 << 20, help="largest gRPC message, and largest tensor in a request or an answer, in bytes", at_least=1
    )
    request_memory_bytes: int = setting(
        0,
        help="memory that all requests in progress may take together once they are read, in bytes; more are refused "
        "(default: four times message_bytes)",
        at_least=0,
    )
    json_bytes: int = setting(32 << 20, help="largest REST body, in bytes", at_least=1)
    rows: int = setting(
        1 << 16,
        help="largest batch of one request, in rows; fewer if the answer would be larger than message_bytes",
        at_least=1,
    )
    open_rows: int = setting(
        1024, help="the same for a signature with an output of unknown size, such as text or a WAV", at_least=1
    )
    step_rows: int = setting(
        64, help="an unbatched request goes through the model in steps of this many rows", at_least=1
    )
    concurrent_runs: int = setting(
        default_factory=lambda: max(2, os.cpu_count() or 2),
        help="unbatched requests that compute at the same time (default: one for each CPU, at least 2)",
        at_least=1,
    )
    open_requests: int = setting(
        128, help="requests that may compute or wait, for gRPC and for REST each; more are refused", at_least=1
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def request_memory(self) -> int:
        """Memory that all requests in progress may take together, in bytes."""
        return self.request_memory_bytes or 4 * self.message_bytes


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How the versions of all models are loaded.

    Raises:
        UsageError: a value is not allowed, or the three numbers of threads are given together.
    """

    saved_model_tags: tuple[str, ...] = setting(("serve",), help="tags of the graph to load from a SavedModel")
    enable_model_warmup: bool = setting(True, help="run the model's warm-up requests before it serves")
    num_request_iterations_for_warmup: int = setting(
        0, help="how often each warm-up request is run; numbers below 1 mean once", below=2**31
    )
    max_num_load_retries: int = setting(
        5, help="how often a version that does not load is tried again while its files stay as they are", at_least=0
    )
    load_retry_interval_micros: int = setting(
        60_000_000, help="time between two such tries, in µs; a negative number does not wait", below=2**63
    )
    tensorflow_session_parallelism: int = setting(
        0, help="threads that run one model's operations, and threads inside an operation; 0 chooses", at_least=0
    )
    tensorflow_intra_op_parallelism: int = setting(0, help="threads inside an operation; 0 chooses", at_least=0)
    tensorflow_inter_op_parallelism: int = setting(
        0, help="operations of a model that run at the same time; 0 chooses", at_least=0
    )
    enable_per_model_batching_parameters: bool = setting(
        False,
        help="batch a version only if its folder has a batching_params.pbtxt, with the sizes and times in that file",
    )

    def __post_init__(self) -> None:
        check(self)
        if min(self.tensorflow_session_parallelism, *self._op_threads) > 0:
            raise UsageError(
                "give --tensorflow_session_parallelism, or --tensorflow_intra_op_parallelism and "
                "--tensorflow_inter_op_parallelism, but not all three"
            )

    @property
    def _op_threads(self) -> tuple[int, int]:
        return self.tensorflow_intra_op_parallelism, self.tensorflow_inter_op_parallelism

    @property
    def threads(self) -> tuple[int, int]:
        """Threads inside an operation, and operations at the same time; 0 lets TensorFlow choose."""
        if any(self._op_threads):
            return self._op_threads
        return self.tensorflow_session_parallelism, self.tensorflow_session_parallelism


@dataclass(frozen=True, kw_only=True)
class ServerConfig(ModelConfig):
    """Settings of the embedded server; the names are those of tensorflow_model_server's flags.

    Attributes:
        batching: how requests share batches; None turns batching off.
        tls: certificates of the gRPC port; None means plain text.
        metrics_path: path of the Prometheus page on the REST port; None means no page.
        token: what clients must send, except for health; None lets everyone in.
        limits: how large and how many requests may be.

    Raises:
        UsageError: a value is not allowed, flags contradict each other, or there is neither a base path nor a
            configuration file.
    """

    model_base_path: Path | str | None = setting(
        None,
        help="folder with one numbered sub-folder for each version, local or a URL that TensorFlow reads; "
        "ignored if there is a --model_config_file",
        metavar="MODEL_DIR",
        parse=str,
    )
    model_name: str = setting(
        MODEL_NAME,
        help="the model's name in requests (stock: `default`); ignored if there is a --model_config_file",
    )
    model_config_file: Path | str | None = setting(
        None, help="text proto that lists models, version policies and labels", metavar="FILE", parse=str
    )
    model_config_file_poll_wait_seconds: float = setting(
        0.0,
        help="time between two readings of the model config file, in s; 0 reads it once",
        metavar="SECONDS",
        below=2**31,
    )
    allow_version_labels_for_unavailable_models: bool = setting(
        False, help="let a new label name a version that is not loaded yet"
    )
    host: str = setting(
        "127.0.0.1",
        help="address to listen on; the default can be reached from this machine only (stock: all addresses)",
    )
    port: int = setting(
        8500, help="gRPC port; 0 picks a free one (stock: 0 means no gRPC port)", at_least=0, at_most=65_535
    )
    grpc_socket_path: str = setting(
        "", help="path of a Unix socket on which gRPC is answered too (by grpcio)", metavar="PATH"
    )
    grpc_channel_arguments: tuple[str, ...] = setting(
        (),
        help="arguments of grpcio's server, such as grpc.max_connection_age_ms=2000; turns the native front end off",
        metavar="KEY=VALUE,..",
    )
    grpc_max_threads: int = setting(
        0, help="gRPC requests that compute at the same time if they are not batched; 0 chooses", at_least=0
    )
    rest_api_port: int = setting(
        8501,
        help="REST port; 0 picks a free one, -1 turns REST off (stock: 0 turns REST off, and is the default)",
        at_least=-1,
        at_most=65_535,
    )
    rest_api_timeout_in_ms: int = setting(
        30_000,
        help="longest time that a REST request takes, in ms; 0 or less means any time",
        at_least=-(2**31),
        below=2**31,
    )
    rest_api_num_threads: int = setting(0, help="REST requests that compute at the same time; 0 chooses", at_least=0)
    rest_cors: bool = setting(
        False, help="let web pages of any origin use REST (CORS)", flag="rest_api_enable_cors_support"
    )
    tensor_content: bool = setting(
        False,
        help="answer with tensor_content instead of the typed fields (float_val, ...)",
        flag="enable_serialization_as_tensor_content",
    )
    grpc_front_end: str = setting(
        "auto",
        help="gRPC server: native (compiled), python (grpcio), or auto (native if it is built)",
        choices=FRONT_ENDS,
    )
    file_system_poll_wait_seconds: float = setting(
        1.0,
        help="how often to look for new versions, in s; 0 looks once, a negative number never",
        metavar="SECONDS",
        below=2**31,
    )
    allow_reload: bool = setting(
        False,
        help="let every client replace the models (HandleReloadConfigRequest), so that it can load any SavedModel; "
        "clients whose certificates are verified may always (stock: always allowed)",
    )
    batching: Batching | None = field(default_factory=Batching)
    tls: Tls | None = None
    metrics_path: str | None = None
    token: Token | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.token, str):  # as callers from Python write it
            object.__setattr__(self, "token", Token(self.token))
        if not self.model_base_path and not self.model_config_file:
            raise UsageError("give --model_base_path or --model_config_file")
        if self.port and self.port == self.rest_api_port:
            raise UsageError(f"--port and --rest_api_port are both {self.port}; give them different ports")
        if self.grpc_front_end == "native" and self.grpc_channel_arguments:
            raise UsageError(
                "--grpc_front_end native takes no --grpc_channel_arguments; leave --grpc_front_end out, or use python"
            )
        for text in self.grpc_channel_arguments:
            key, _, value = text.partition("=")
            if not key.strip() or not value.strip() or not text.isascii() or "\0" in text:
                raise UsageError(f"--grpc_channel_arguments: {text!r} is not KEY=VALUE; write KEY=VALUE,KEY=VALUE")

    @property
    def reload_is_allowed(self) -> bool:
        """Whether clients may replace the models: if a setting says so, or if all clients are known by certificates."""
        return self.allow_reload or (self.tls is not None and self.tls.client_verify)

    @property
    def channel_arguments(self) -> list[tuple[str, int | str]]:
        """The arguments of the gRPC server; a value that is a whole number of 32 bits is given as a number."""
        pairs = (text.partition("=")[::2] for text in self.grpc_channel_arguments)
        return [(key.strip(), _number_or_text(value.strip())) for key, value in pairs]


@dataclass(frozen=True, kw_only=True)
class ConfigFiles:
    """The flags that name configuration files; `read` turns them into settings of `ServerConfig`."""

    enable_batching: bool | None = setting(
        None,
        help="compute requests of several clients in one batch (default: true, with sizes that suit this machine; "
        "stock: false)",
    )
    batching_parameters_file: Path | str | None = setting(
        None, help="sizes and times of batches (text proto); needs --enable_batching", metavar="FILE", parse=str
    )
    ssl_config_file: Path | str | None = setting(
        None, help="keys and certificates of the gRPC port (text proto)", metavar="FILE", parse=str
    )
    monitoring_config_file: Path | str | None = setting(
        None, help="Prometheus page on the REST port (text proto)", metavar="FILE", parse=str
    )
    auth_token_file: Path | str | None = setting(
        None,
        help="file with a token that clients must send (`authorization: Bearer TOKEN`), on gRPC and REST, except for "
        f"health (default: the variable {TOKEN_VARIABLE}; without it, no token is asked; not a stock flag)",
        metavar="FILE",
        parse=str,
    )

    def read(self) -> dict[str, Any]:
        """Returns `batching`, `tls`, `metrics_path` and `token`, as `ServerConfig` takes them.

        Raises:
            UsageError: there is a batching file, and batching is not turned on; or there is no token in the file or
                variable for it.
            ServingError: a file cannot be read, or is not valid.
        """
        # As in TensorFlow Serving, an empty name means no file.
        batching_file, tls, monitoring, token = (
            Path(name) if name else None
            for name in (
                self.batching_parameters_file,
                self.ssl_config_file,
                self.monitoring_config_file,
                self.auth_token_file,
            )
        )
        if batching_file and not self.enable_batching:
            raise UsageError("--batching_parameters_file is set without setting --enable_batching to true")
        batching = None if self.enable_batching is False else Batching()
        return {
            "batching": read_batching(batching_file) if batching_file else batching,
            "tls": read_tls(tls) if tls else None,
            "metrics_path": read_metrics_path(monitoring) if monitoring else None,
            "token": read_token(token),
        }


def _number_or_text(text: str) -> int | str:
    try:
        number = int(text)
    except ValueError:
        return text
    return number if -(2**31) <= number < 2**31 else text
