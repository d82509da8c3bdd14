"""SavedModels in memory: loading, running one request, and following a folder of versions.

Needs TensorFlow (imported when the first model is loaded, so that a taken port
is reported at once). Nothing here knows the tfpipe model: any SavedModel with
signatures is served.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving import protos, tensors
from serving.status import Code, StatusError, from_runtime
from tfpipe.errors import TfpipeError
from tfpipe.records import read_records

_LOG = logging.getLogger(__name__)

DEFAULT_SIGNATURE = "serving_default"
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MAX_WARMUPS = 1000

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for.

    Attributes:
        message_bytes: largest gRPC message, and largest tensor, in bytes.
        json_bytes: largest REST body, in bytes.
        rows: largest batch of one request.
        step_rows: rows that go through the model at a time.
        running: requests that compute at the same time.
        waiting: requests that may wait for their turn; more are refused.
    """

    message_bytes: int = 256 << 20
    json_bytes: int = 64 << 20
    rows: int = 1024
    step_rows: int = 32
    running: int = 2
    waiting: int = 64


class Gate:
    """Bounds the work in hand: so many requests compute, so many wait, the rest are refused at once.

    The one place where requests meet before they reach a model; batching
    several into one run belongs here.
    """

    def __init__(self, limits: Limits) -> None:
        self._places = threading.BoundedSemaphore(limits.running + limits.waiting)
        self._running = threading.BoundedSemaphore(limits.running)

    @contextlib.contextmanager
    def turn(self, timeout_s: float | None = None) -> Iterator[None]:
        """Waits for a turn to compute.

        Raises:
            StatusError: UNAVAILABLE when too many wait; DEADLINE_EXCEEDED when the turn comes too late.
        """
        if not self._places.acquire(blocking=False):
            raise StatusError(Code.UNAVAILABLE, "The request queue is full; try again later.")
        try:
            if not self._running.acquire(timeout=None if timeout_s is None else max(0.0, timeout_s)):
                raise StatusError(Code.DEADLINE_EXCEEDED, "The deadline passed before the request's turn came.")
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._places.release()


class Signature:
    """One signature of a loaded model.

    Args:
        definition: its SignatureDef (ours, see `protos`).
        function: the ConcreteFunction that TensorFlow loaded for it.
    """

    def __init__(self, definition: Any, function: Callable[..., Mapping[str, Any]]) -> None:
        self.definition = definition
        self._function = function
        infos = [*definition.inputs.values(), *definition.outputs.values()]
        self.batched = all(info.tensor_shape.dim and info.tensor_shape.dim[0].size == -1 for info in infos)

    def run(self, inputs: Arrays, *, limits: Limits) -> Arrays:
        """Runs the model on checked inputs, at most `limits.step_rows` rows at a time.

        Raises:
            StatusError: the inputs do not fit, or the model failed.
        """
        self._check(inputs, limits)
        rows = {len(array) for array in inputs.values()} if self.batched else {0}
        if len(rows) != 1:
            raise StatusError(Code.INVALID_ARGUMENT, f"the inputs differ in batch size: {sorted(rows)}")
        total = rows.pop()
        if total <= limits.step_rows:
            return self._run(inputs)
        steps = range(0, total, limits.step_rows)
        parts = [self._run({k: v[at : at + limits.step_rows] for k, v in inputs.items()}) for at in steps]
        return {alias: np.concatenate([part[alias] for part in parts]) for alias in parts[0]}

    def _run(self, inputs: Arrays) -> Arrays:
        import tensorflow as tf

        try:
            outputs = self._function(**{alias: tf.constant(array) for alias, array in inputs.items()})
            return {alias: tensor.numpy() for alias, tensor in outputs.items()}
        except Exception as error:  # whatever the graph raises must not end the server
            if not isinstance(error, tf.errors.OpError):
                _LOG.exception("the model failed")
            raise from_runtime(error) from error

    def _check(self, inputs: Arrays, limits: Limits) -> None:
        for alias, array in inputs.items():
            info = self.definition.inputs[alias]
            wanted = tensors.dtype_of(info.dtype)
            if array.dtype != wanted:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"Expects {alias} to be {_type_word(wanted)} but {_type_word(array.dtype)} is provided",
                )
            sizes = None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]
            if sizes is not None and not _fits(array.shape, sizes):
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"Expects {alias} of shape {sizes} (-1 is any) but {list(array.shape)} is provided",
                )
            if self.batched and len(array) > limits.rows:
                raise StatusError(
                    Code.INVALID_ARGUMENT,
                    f"a batch of {len(array)} rows is larger than this server's {limits.rows}; split it",
                )


class LoadedModel:
    """One version, ready to answer.

    Args:
        version: its number.
        signatures: by name.
        limits: what a request may ask for.
    """

    def __init__(self, *, version: int, signatures: dict[str, Signature], limits: Limits) -> None:
        self.version = version
        self.signatures = signatures
        self._limits = limits

    @classmethod
    def load(cls, path: Path, *, version: int, limits: Limits, warmup: bool = True) -> LoadedModel:
        """Loads a SavedModel with the tag `serve` and, unless told not to, runs its warm-up requests.

        Raises:
            StatusError: with the reason, when it cannot be loaded or a warm-up request fails.
        """
        import tensorflow as tf
        from tensorflow.core.protobuf import saved_model_pb2

        try:
            definition = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
            loaded = tf.saved_model.load(str(path), tags=["serve"])
        except FileNotFoundError as error:
            raise StatusError(Code.NOT_FOUND, f"{path}: holds no complete SavedModel") from error
        except Exception as error:  # TensorFlow raises many kinds for a damaged model
            raise StatusError(Code.DATA_LOSS, f"{path}: cannot be loaded ({_first_line(error)})") from error
        [graph] = [graph for graph in definition.meta_graphs if "serve" in graph.meta_info_def.tags]
        signatures = {
            name: Signature(protos.SignatureDef.FromString(graph.signature_def[name].SerializeToString()), function)
            for name, function in loaded.signatures.items()
        }
        model = cls(version=version, signatures=signatures, limits=limits)
        if warmup:
            model._warm_up(path / WARMUP_FILE)
        return model

    def predict(self, request: Any) -> Any:
        """Answers a PredictRequest whose model spec has been resolved to this version.

        The order of the checks is TensorFlow Serving's (servables/tensorflow/predict_util.cc).

        Raises:
            StatusError: the request does not fit the model, or the model failed.
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(name)
        if signature is None:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        check_aliases(signature.definition.inputs, request.inputs)
        inputs = {alias: self._tensor(alias, proto) for alias, proto in request.inputs.items()}
        wanted = _filtered(signature.definition.outputs, request.output_filter)
        outputs = signature.run(inputs, limits=self._limits)
        response = protos.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = name
        response.model_spec.version.value = self.version
        for alias in wanted:
            response.outputs[alias].CopyFrom(tensors.to_proto(outputs[alias]))
        return response

    def _tensor(self, alias: str, proto: Any) -> NDArray[Any]:
        try:
            return tensors.from_proto(proto, max_bytes=self._limits.message_bytes)
        except tensors.TensorError as error:
            raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}: {error}") from error

    def _warm_up(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            for number, record in enumerate(read_records(path)):
                if number >= _MAX_WARMUPS:
                    raise StatusError(Code.INVALID_ARGUMENT, f"{path}: more than {_MAX_WARMUPS} warm-up requests")
                self.predict(protos.PredictionLog.FromString(record).predict_log.request)
        except (TfpipeError, ValueError, OSError) as error:
            raise StatusError(Code.DATA_LOSS, f"{path}: damaged warm-up file ({error})") from error
        except StatusError as error:
            raise StatusError(error.code, f"{path}: a warm-up request failed ({error.message})") from error


class VersionStatus(NamedTuple):
    """State of one version.

    Attributes:
        version: its number.
        state: name of a GetModelStatus state, such as `AVAILABLE`.
        error: why it ended, or None.
    """

    version: int
    state: str
    error: StatusError | None = None


class ModelFolder:
    """Serves the newest version in a folder that loads, and follows the folder as versions come and go.

    A new version is loaded and warmed before the old one is dropped; requests
    in flight finish on the version they began with; a version that does not
    load is reported (state END) and tried again once its files have changed.

    Args:
        name: the model's name in requests.
        base_path: folder with numeric sub-folders.
        load: makes a model of (path, version), or raises StatusError.
    """

    def __init__(self, *, name: str, base_path: Path, load: Callable[[Path, int], LoadedModel]) -> None:
        self.name = name
        self._base_path = base_path
        self._load = load
        self._lock = threading.Lock()
        self._current: LoadedModel | None = None
        self._in_flight: dict[int, int] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, object] = {}
        self._said = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, poll_s: float) -> None:
        """Looks once, then every `poll_s` seconds (0: once only; negative: never)."""
        if poll_s >= 0:
            self.poll()
        if poll_s > 0:
            self._thread = threading.Thread(target=self._follow, args=(poll_s,), name="versions", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops following the folder; what is loaded stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=60)

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None) -> Iterator[LoadedModel]:
        """Holds a version for one request.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        with self._lock:
            model = self._current
            if name != self.name or model is None or version not in (None, model.version):
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
            self._in_flight[model.version] = self._in_flight.get(model.version, 0) + 1
        try:
            yield model
        finally:
            with self._lock:
                self._in_flight[model.version] -= 1
                self._end_if_idle(model.version)

    @property
    def available(self) -> bool:
        """Whether a version is ready to answer."""
        return self._current is not None

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Returns the states of all known versions, or of one, newest first.

        Raises:
            StatusError: NOT_FOUND, in TensorFlow Serving's words.
        """
        with self._lock:
            known = dict(self._statuses) if name == self.name else {}
        if version is not None:
            if version not in known:
                raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            return [known[version]]
        if not known:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return [known[number] for number in sorted(known, reverse=True)]

    def poll(self) -> None:
        """Looks at the folder once and moves to the newest version that loads."""
        found = self._versions()
        for version in sorted(found, reverse=True):
            if self._current is not None and version == self._current.version:
                return
            files = _fingerprint(found[version])
            if self._failed.get(version) == files:
                continue
            if self._try(found[version], version):
                return
            self._failed[version] = files

    def _try(self, path: Path, version: int) -> bool:
        """Loads and warms a version and puts it in front; tells whether that worked."""
        self._set(version, "LOADING")
        started = time.monotonic()
        try:
            model = self._load(path, version)
        except StatusError as error:
            _LOG.error("version %d of model %s does not load: %s", version, self.name, error.message)
            self._set(version, "END", error)
            return False
        self._failed.pop(version, None)
        with self._lock:
            old, self._current = self._current, model
            self._statuses[version] = VersionStatus(version, "AVAILABLE")
            if old is not None:
                self._statuses[old.version] = VersionStatus(old.version, "UNLOADING")
                self._end_if_idle(old.version)
        _LOG.info("serving version %d of model %s (loaded in %.1f s)", version, self.name, time.monotonic() - started)
        return True

    def _set(self, version: int, state: str, error: StatusError | None = None) -> None:
        with self._lock:
            self._statuses[version] = VersionStatus(version, state, error)

    def _end_if_idle(self, version: int) -> None:
        """Marks an unloading version as ended once nothing runs on it; the lock is held."""
        if self._statuses[version].state == "UNLOADING" and not self._in_flight.get(version):
            self._statuses[version] = VersionStatus(version, "END")

    def _versions(self) -> dict[int, Path]:
        """Returns the numeric sub-folders; what is wrong is logged once, not at every look."""
        try:
            found = {int(p.name): p for p in self._base_path.iterdir() if _is_number(p.name) and p.is_dir()}
            problem = "" if found else "no versions yet: waiting for a sub-folder whose name is a number"
        except OSError as error:
            found, problem = {}, f"cannot be read ({error.strerror}); the state stays as it is"
        if problem and problem != self._said:
            _LOG.warning("%s: %s", self._base_path, problem)
        self._said = problem
        return found

    def _follow(self, poll_s: float) -> None:
        while not self._stop.wait(poll_s):
            try:
                self.poll()
            except Exception:  # the watcher must outlive any folder
                _LOG.exception("%s: looking for versions failed", self._base_path)


def check_aliases(wanted: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    """Refuses a request whose inputs are not the signature's.

    Raises:
        StatusError: INVALID_ARGUMENT with both sets of names.
    """
    if set(wanted) == set(sent):
        return
    ours, theirs = sorted(wanted), sorted(sent)
    raise StatusError(
        Code.INVALID_ARGUMENT,
        f"input size does not match signature: {len(theirs)}!={len(ours)} "
        f"len({{{','.join(theirs)}}}) != len({{{','.join(ours)}}}). "
        f"Sent extra: {{{','.join(sorted(set(theirs) - set(ours)))}}}. "
        f"Missing but required: {{{','.join(sorted(set(ours) - set(theirs)))}}}.",
    )


def _filtered(outputs: Mapping[str, Any], output_filter: Sequence[str]) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in outputs:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{','.join(sorted(outputs))}}}.",
            )
        if alias in seen:
            raise StatusError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(outputs)


def _fits(shape: tuple[int, ...], sizes: list[int]) -> bool:
    return len(shape) == len(sizes) and all(b in (-1, a) for a, b in zip(shape, sizes, strict=True))


def _type_word(dtype: np.dtype[Any]) -> str:
    words = {"float32": "float", "float64": "double", "object": "string"}
    return words.get(dtype.name, dtype.name)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _fingerprint(path: Path) -> object:
    """Changes when a file is added to, or written in, a version's folder."""
    try:
        files = [path, *path.iterdir(), *(path / "variables").glob("*")]
        return tuple(sorted((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    except OSError:
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
