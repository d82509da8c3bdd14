"""The settings of the embedded server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from serving.protocol.names import MODEL_NAME
from serving.server.config_files import Batching, Tls
from tfpipe.errors import UsageError
from tfpipe.settings import check, setting

FRONT_ENDS = ("auto", "native", "python")
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
    json_bytes: int = setting(32 << 20, help="largest REST body, in bytes", at_least=1)
    rows: int = setting(1024, help="largest batch of one request, in rows", at_least=1)
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


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of the embedded server; the names are those of tensorflow_model_server's flags.

    Attributes:
        batching: how requests share batches; None turns batching off.
        tls: certificates of the gRPC port; None means plain text.
        metrics_path: path of the Prometheus page on the REST port; None means no page.
        limits: how large and how many requests may be.

    Raises:
        UsageError: a value is not allowed, or not exactly one of base path and configuration file is given.
    """

    model_base_path: Path | str | None = setting(
        None, help="folder with one numbered sub-folder for each version", metavar="MODEL_DIR"
    )
    model_name: str = setting(MODEL_NAME, help="the model's name in requests")
    model_config_file: Path | str | None = setting(
        None, help="text proto that lists models, version policies and labels", metavar="FILE"
    )
    model_config_file_poll_wait_seconds: float = setting(
        0.0, help="time between two readings of the model config file, in s; 0 reads it once", metavar="SECONDS"
    )
    allow_version_labels_for_unavailable_models: bool = setting(
        False, help="let a new label name a version that is not loaded yet"
    )
    host: str = setting("127.0.0.1", help="address to listen on; the default can be reached from this machine only")
    port: int = setting(8500, help="gRPC port; 0 picks a free one", at_least=0, at_most=65_535)
    rest_api_port: int = setting(
        8501, help="REST port; 0 picks a free one, -1 turns REST off", at_least=-1, at_most=65_535
    )
    rest_api_timeout_in_ms: int = setting(30_000, help="longest time that a REST request takes, in ms", at_least=1)
    grpc_max_threads: int = setting(
        0,
        help=f"threads that answer gRPC requests, {SPARE_THREADS + 1} or more; 0 chooses a number that fits",
        at_least=0,
    )
    grpc_front_end: str = setting(
        "auto",
        help="gRPC server: native (compiled, no TLS), python (grpcio), or auto (native if it is built and TLS is off)",
        choices=FRONT_ENDS,
    )
    file_system_poll_wait_seconds: float = setting(
        1.0,
        help="time between two looks for new versions, in s; 0 looks once, a negative number never",
        metavar="SECONDS",
    )
    enable_model_warmup: bool = setting(True, help="run the model's warm-up requests before it serves")
    batching: Batching | None = field(default_factory=Batching)
    tls: Tls | None = None
    metrics_path: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check(self)
        if (self.model_base_path is None) == (self.model_config_file is None):
            raise UsageError("give --model_base_path or --model_config_file, one of the two")
        if 0 < self.grpc_max_threads <= SPARE_THREADS:
            raise UsageError(f"--grpc_max_threads {self.grpc_max_threads} is too few; use {SPARE_THREADS + 1} or more")
        if self.grpc_front_end == "native" and self.tls is not None:
            raise UsageError("--grpc_front_end native has no TLS; use --grpc_front_end python, or leave it out")

    @property
    def threads(self) -> int:
        """Threads that answer gRPC requests, including the spare ones."""
        return self.grpc_max_threads or self.limits.open_requests + SPARE_THREADS
