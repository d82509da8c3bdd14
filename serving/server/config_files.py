"""The server's configuration files: text protos of tensorflow_model_server, checked as it checks them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving.protocol import protos
from serving.protocol.status import Code, StatusError
from tfpipe.errors import ServingError

METRICS_PATH = "/monitoring/prometheus/metrics"
_PLATFORM = "tensorflow"
# Each model has a thread that follows its folder.
_MAX_MODELS = 1000
_MAX_PATH = 4096


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How requests are put together; the words are those of a batching parameters file.

    With the defaults, 32 clients make two batches: while one computes or its answers travel, the other computes.
    On two cores that gives 0.9 of what the model alone does; one batch at a time gives 0.8, batches of 8 give 0.75.

    Attributes:
        max_batch_size: rows of a batch; larger requests go in steps of as many.
        batch_timeout_micros: time that a batch waits to be filled while nothing computes, in µs.
        max_enqueued_batches: full batches of rows that may wait for one signature.
        num_batch_threads: batches of one signature that compute at the same time.
        allowed_batch_sizes: sizes that batches are padded to, ascending; none is any size.
    """

    max_batch_size: int = 16
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 8
    num_batch_threads: int = 2
    allowed_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
        ):
            if not least <= getattr(self, name) < 2**31:
                raise ServingError(f"{name} must be at least {least}; was {getattr(self, name)}")
        sizes = self.allowed_batch_sizes
        if any(one >= other for one, other in itertools.pairwise(sizes)) or (sizes and sizes[0] < 1):
            raise ServingError(f"allowed_batch_sizes entries must be in increasing order; were {list(sizes)}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise ServingError(
                f"last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {self.max_batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which versions of a model are served.

    Attributes:
        latest: so many of the newest that load; 0 is all of them.
        specific: these alone, where given.
    """

    latest: int = 1
    specific: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One model to serve.

    Attributes:
        name: its name in requests.
        base_path: folder with one numeric sub-folder for each version.
        policy: which of the versions.
        labels: version by label.
    """

    name: str
    base_path: Path
    policy: Policy = Policy()
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificates of the gRPC port, in PEM.

    Attributes:
        key: the server's private key.
        certificate: the server's certificate chain.
        client_ca: authorities that sign clients' certificates, or None.
        client_verify: refuse clients without such a certificate.
    """

    key: bytes = field(repr=False)
    certificate: bytes
    client_ca: bytes | None = None
    client_verify: bool = False


def read_models(path: Path) -> tuple[ModelSettings, ...]:
    """Reads a `models.config`.

    Raises:
        ServingError: it is not one.
    """
    try:
        return models_of(_read(path, protos.ModelServerConfig))
    except StatusError as error:
        raise ServingError(f"{path}: {error.message}") from error


def models_of(config: Any) -> tuple[ModelSettings, ...]:
    """Returns the models of a ModelServerConfig.

    Raises:
        StatusError: INVALID_ARGUMENT, as tensorflow_model_server refuses it.
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
    """Reads a batching parameters file; what it leaves out keeps our default.

    Signatures whose rows differ in length are not batched, so `pad_variable_length_inputs` has nothing to do.

    Raises:
        ServingError: it is not one, or its values do not fit each other.
    """
    given = _read(path, protos.BatchingParameters)
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    values = {name: getattr(given, name).value for name in names if given.HasField(name)}
    try:
        return Batching(**values, allowed_batch_sizes=tuple(given.allowed_batch_sizes))
    except ServingError as error:
        raise ServingError(f"{path}: {error}") from error


def read_tls(path: Path) -> Tls:
    """Reads an SSLConfig file with PEM texts inline.

    Raises:
        ServingError: it is not one, or has no key and certificate.
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
    """Reads a MonitoringConfig file: the path of the Prometheus page, or None where it is not enabled.

    Raises:
        ServingError: it is not one.
    """
    given = _read(path, protos.MonitoringConfig).prometheus_config
    if given.path and not given.path.startswith("/"):
        raise ServingError(f"{path}: the path {given.path!r} must begin with /")
    return (given.path or METRICS_PATH) if given.enable else None


def _model(entry: Any) -> ModelSettings:
    if not entry.name:
        raise StatusError(Code.INVALID_ARGUMENT, "a model in the config list has no name")
    if not entry.base_path.startswith("/"):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}",
        )
    if "\0" in entry.base_path or len(entry.base_path.encode()) > _MAX_PATH:
        raise StatusError(Code.INVALID_ARGUMENT, f"Model {entry.name}: its base_path is no path of this machine")
    if not entry.model_platform:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Illegal setting neither ModelServerConfig::model_type nor ModelServerConfig::model_platform.",
        )
    if entry.model_platform != _PLATFORM:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"Model {entry.name} has the platform {entry.model_platform}; only {_PLATFORM} is served",
        )
    return ModelSettings(
        name=entry.name,
        base_path=Path(entry.base_path),
        policy=_policy(entry.name, entry.model_version_policy),
        labels=dict(entry.version_labels),
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
        return text_format.Parse(path.read_text(encoding="utf-8"), kind())
    except OSError as error:
        raise ServingError(f"{path}: cannot be read ({error.strerror})") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise ServingError(f"{path}: Error parsing text-format {kind.DESCRIPTOR.full_name}: {message}") from error
