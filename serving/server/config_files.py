"""The server's configuration files: the text protos of tensorflow_model_server, with its checks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving.protocol import protos
from serving.protocol.names import METRICS_PATH
from serving.protocol.small_file import read_small_file
from serving.protocol.status import Code, StatusError
from serving.server.models.model_files import is_url
from tfpipe.errors import ServingError, UsageError
from tfpipe.settings import check, setting

_PLATFORM = "tensorflow"
# `ModelType.TENSORFLOW`
_TENSORFLOW_TYPE = 1
# Each model has a thread that watches its folder.
_MAX_MODELS = 1000
_MAX_PATH = 4096
_MAX_FILE = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How requests share batches; the names are those of a batching parameters file.

    With the defaults, 32 clients fill two batches: one computes while the answers of the other are sent. On two
    cores that gives 0.9 of the model's own throughput; one batch at a time gives 0.8, batches of 8 give 0.75.

    Raises:
        UsageError: a value has the wrong type or is out of range, or the allowed sizes do not fit.
    """

    max_batch_size: int = setting(
        16, help="rows of a batch; a request with as many or more rows is computed alone", at_least=1, below=2**31
    )
    batch_timeout_micros: int = setting(
        0, help="how long a batch waits for more rows while nothing computes, in µs", at_least=0, below=2**31
    )
    max_enqueued_batches: int = setting(
        8, help="full batches that may wait for one signature; more rows are refused", at_least=1, below=2**31
    )
    num_batch_threads: int = setting(
        2, help="batches of one signature that compute at the same time", at_least=1, below=2**31
    )
    allowed_batch_sizes: tuple[int, ...] = setting(
        (), help="sizes that batches are padded to, ascending, the last equal to max_batch_size; empty allows any"
    )

    def __post_init__(self) -> None:
        check(self)
        sizes = self.allowed_batch_sizes
        if any(one >= other for one, other in itertools.pairwise(sizes)) or (sizes and sizes[0] < 1):
            raise UsageError(f"allowed_batch_sizes entries must be in increasing order; were {list(sizes)}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise UsageError(
                f"last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {self.max_batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which versions of a model are served.

    Attributes:
        latest: number of the newest versions to serve; 0 means all.
        specific: if not empty, serve these versions only.
    """

    latest: int = 1
    specific: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One model to serve.

    Attributes:
        name: its name in requests.
        base_path: folder with one numeric sub-folder for each version, or its URL.
        policy: selects the versions.
        labels: version by label.
    """

    name: str
    base_path: Path | str
    policy: Policy = Policy()
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificates of the gRPC port, in PEM.

    Attributes:
        key: the server's private key.
        certificate: the server's certificate chain.
        client_ca: certificates of the authorities that sign clients' certificates, or None.
        client_verify: refuse clients without such a certificate.
    """

    key: bytes = field(repr=False)
    certificate: bytes
    client_ca: bytes | None = None
    client_verify: bool = False


def read_models(path: Path) -> tuple[ModelSettings, ...] | None:
    """Reads a `models.config` (a ModelServerConfig); returns None if it is empty, as while it is being written.

    Raises:
        ServingError: the file cannot be read, or is not valid.
    """
    try:
        config = _read(path, protos.ModelServerConfig)
        return models_of(config) if config.WhichOneof("config") else None
    except StatusError as error:
        raise ServingError(f"{path}: {error.message}") from error


def models_of(config: Any) -> tuple[ModelSettings, ...]:
    """Returns the models of a ModelServerConfig.

    Raises:
        StatusError: INVALID_ARGUMENT with tensorflow_model_server's text.
    """
    if config.HasField("custom_model_config"):
        raise StatusError(Code.INVALID_ARGUMENT, "only model_config_list is supported, not custom_model_config")
    entries = config.model_config_list.config
    if len(entries) > _MAX_MODELS:
        raise StatusError(
            Code.INVALID_ARGUMENT, f"the config list has {len(entries)} models; this server takes {_MAX_MODELS}"
        )
    models: dict[str, ModelSettings] = {}
    for entry in entries:
        model = _model(entry)
        if model.name in models:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"Illegal to list model {model.name} multiple times in config list"
            )
        models[model.name] = model
    return tuple(models.values())


def read_batching(path: Path) -> Batching:
    """Reads a batching parameters file; a value that it leaves out keeps the default of `Batching`.

    `pad_variable_length_inputs` is ignored, because signatures whose rows differ in length are not batched. Large
    requests are always split, so with `enable_large_batch_splitting` the size of a batch is `max_execution_batch_size`.

    Raises:
        ServingError: the file cannot be read, or is not valid.
    """
    return batching_of(_read(path, protos.BatchingParameters), path)


def batching_of(given: Any, path: object) -> Batching:
    """Returns the settings in a BatchingParameters message that was read from `path`.

    Raises:
        ServingError: a value is not allowed; the message names `path`.
    """
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    values = {name: getattr(given, name).value for name in names if given.HasField(name)}
    if given.enable_large_batch_splitting.value and given.HasField("max_execution_batch_size"):
        values["max_batch_size"] = min(
            given.max_execution_batch_size.value, values.get("max_batch_size", given.max_execution_batch_size.value)
        )
    try:
        return Batching(**values, allowed_batch_sizes=tuple(given.allowed_batch_sizes))
    except UsageError as error:
        raise ServingError(f"{path}: {error}") from error


def read_tls(path: Path) -> Tls:
    """Reads an SSLConfig file with PEM texts in it.

    Raises:
        ServingError: the file cannot be read, or has no key and certificate.
    """
    given = _read(path, protos.SSLConfig)
    if not given.server_key or not given.server_cert:
        raise ServingError(f"{path}: server_key and server_cert are needed, as PEM text")
    if given.client_verify and not given.custom_ca:
        raise ServingError(f"{path}: client_verify needs custom_ca, the authority that signs clients' certificates")
    return Tls(
        key=given.server_key.encode(),
        certificate=given.server_cert.encode(),
        client_ca=given.custom_ca.encode() or None,
        client_verify=given.client_verify,
    )


def read_metrics_path(path: Path) -> str | None:
    """Reads a MonitoringConfig file and returns the path of the Prometheus page, or None if it is not enabled.

    Raises:
        ServingError: the file cannot be read, or is not valid.
    """
    given = _read(path, protos.MonitoringConfig).prometheus_config
    if given.path and not given.path.startswith("/"):
        raise ServingError(f"{path}: the path {given.path!r} must begin with /")
    return (given.path or METRICS_PATH) if given.enable else None


def _model(entry: Any) -> ModelSettings:
    if not entry.name:
        raise StatusError(Code.INVALID_ARGUMENT, "a model in the config list has no name")
    if not entry.base_path.startswith("/") and not is_url(entry.base_path):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}",
        )
    if "\0" in entry.base_path or len(entry.base_path.encode()) > _MAX_PATH:
        raise StatusError(Code.INVALID_ARGUMENT, f"Model {entry.name}: its base_path is not a valid path")
    _check_platform(entry)
    return ModelSettings(
        name=entry.name,
        base_path=entry.base_path if is_url(entry.base_path) else Path(entry.base_path),
        policy=_policy(entry.name, entry.model_version_policy),
        labels=dict(entry.version_labels),
    )


def _check_platform(entry: Any) -> None:
    """Refuses a model that is not a SavedModel. `model_type` is the older field for the same."""
    if entry.model_type and entry.model_platform:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Illegal setting both ModelServerConfig::model_type and ModelServerConfig::model_platform.",
        )
    if not entry.model_type and not entry.model_platform:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Illegal setting neither ModelServerConfig::model_type nor ModelServerConfig::model_platform.",
        )
    if entry.model_type not in (0, _TENSORFLOW_TYPE) or entry.model_platform not in ("", _PLATFORM):
        platform = entry.model_platform or f"of the model_type {entry.model_type}"
        raise StatusError(
            Code.INVALID_ARGUMENT, f"Model {entry.name} has the platform {platform}; only {_PLATFORM} is served"
        )


def _policy(name: str, given: Any) -> Policy:
    choice = given.WhichOneof("policy_choice")
    if choice == "all":
        return Policy(latest=0)
    if choice == "specific":
        if not given.specific.versions:
            raise StatusError(Code.INVALID_ARGUMENT, f"Model {name}: a specific version policy lists no version")
        return Policy(specific=frozenset(given.specific.versions))
    return Policy(latest=given.latest.num_versions or 1)


def _read(path: Path, kind: Any) -> Any:
    try:
        data, _ = read_small_file(path, most=_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise ServingError(f"{path}: is larger than {_MAX_FILE >> 20} MiB, so it is no configuration file")
        return text_format.Parse(data.decode(), kind())
    except OSError as error:
        raise ServingError(f"{path}: cannot be read ({error.strerror})") from error
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise ServingError(f"{path}: Error parsing text-format {kind.DESCRIPTOR.full_name}: {message}") from error
