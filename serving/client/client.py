"""A light client of a served model: NumPy in, NumPy out, no TensorFlow.

Works against `tfpipe serve` and any server that speaks TensorFlow Serving's
gRPC API and serves a model of `tfpipe export`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.client.windows import interpolate, windows_of_file
from serving.protocol import protos, tensors
from tfpipe.errors import ServingError, UsageError, translate_os_errors
from tfpipe.spec import FeatureSpec, require_same_spec

FloatArray = NDArray[np.float32]
# gRPC's own limit of 4 MiB is 37 spectrograms.
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# Rows of one message: 32 windows of audio are 14 MB.
_MAX_ROWS = 32
_FIRST_WAIT_S, _MAX_WAIT_S, _QUIET_WAIT_S = 0.05, 2.0, 2.0
_MAX_TENSOR_BYTES = 2**31


class ServerUnavailableError(ServingError):
    """No server answers there, or it has too much to do."""


class DeadlineExceededError(ServingError):
    """The answer did not come in time."""


class ModelNotFoundError(ServingError):
    """The server does not serve that model or version."""


class RequestRefusedError(ServingError):
    """The server says that the request is wrong."""


class ServerFailedError(ServingError):
    """The server or the model failed."""


_ERRORS: dict[Any, type[ServingError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: RequestRefusedError,
    grpc.StatusCode.FAILED_PRECONDITION: RequestRefusedError,
    grpc.StatusCode.OUT_OF_RANGE: RequestRefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RequestRefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RequestRefusedError,
}


class Latent(NamedTuple):
    """The posterior of windows: `z_mean` and `z_log_var`, `[n, d]` each."""

    z_mean: FloatArray
    z_log_var: FloatArray


class Encoded(NamedTuple):
    """What `encode_audio` returns: `z_mean`, `z_log_var` `[n, d]`, `mel` `[n, n_mels, frames]`, `ref_db` `[n]` dB."""

    z_mean: FloatArray
    z_log_var: FloatArray
    mel: FloatArray
    ref_db: FloatArray


class EncodedWindows(NamedTuple):
    """Some windows of a file: `start_s` `[n]` in s, and what they encode to."""

    start_s: NDArray[np.float64]
    encoded: Encoded


class RebuiltWindows(NamedTuple):
    """Some windows of a file, encoded and decoded again.

    Attributes:
        start_s: `[n]` in s.
        encoded: what they encode to.
        mel: `[n, n_mels, frames]`, what that decodes to.
        audio: `[n, samples]`, likewise.
    """

    start_s: NDArray[np.float64]
    encoded: Encoded
    mel: FloatArray
    audio: FloatArray


class Generated(NamedTuple):
    """What `generate` returns: `z` `[n, d]` and `mel` `[n, n_mels, frames]`."""

    z: FloatArray
    mel: FloatArray


class VersionState(NamedTuple):
    """State of one version: its number, such as `AVAILABLE`, and the error of a failed one (else empty)."""

    version: int
    state: str
    error: str


class ClientTls(NamedTuple):
    """Files in PEM: `ca` signs the server's certificate; `cert` and `key` are the client's own, where it asks."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class Client:
    """A connection to a served model; safe to share between threads, and a context manager.

    Large batches are split, UNAVAILABLE is tried again with growing waits
    until the deadline, and message limits are lifted.

    Args:
        target: `HOST:PORT` of the gRPC API.
        model: the model's name on the server.
        version: a fixed version, or None for the newest.
        timeout_s: deadline of a request with its retries, in s; each part of a split batch has its own.
        expected_spec: refuse a server whose model has another feature spec.
        on_wait: told in a sentence, once, when a request has waited for a server for two seconds.
        tls: certificates; None is plain text.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = "vae",
        version: int | None = None,
        timeout_s: float = 30.0,
        expected_spec: FeatureSpec | None = None,
        on_wait: Callable[[str], object] | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self.target, self.model, self.version, self.timeout_s = target, model, version, timeout_s
        self._expected, self._on_wait = expected_spec, on_wait
        self._description: dict[str, Any] | None = None
        self._channel = (
            grpc.insecure_channel(target, options=UNLIMITED)
            if tls is None
            else grpc.secure_channel(target, _credentials(tls), options=UNLIMITED)
        )
        self._predict = self._method("PredictionService/Predict", protos.PredictResponse)
        self._status = self._method("ModelService/GetModelStatus", protos.GetModelStatusResponse)

    def describe(self) -> dict[str, Any]:
        """Returns what the model says of itself: `spec`, `fingerprint`, `labels`, `latent`, `metadata`.

        Raises:
            SpecMismatch: the feature spec is not the expected one.
            ServingError: see the module's errors.
        """
        if self._description is None:
            answer = self._run("spec", {"index": np.zeros(1, np.int32)})
            description = json.loads(answer["json"][0])
            if self._expected is not None:
                served = FeatureSpec.from_dict(description["spec"])
                require_same_spec(self._expected, served, expected_from="the client", actual_from=self.target)
            self._description = description
        return self._description

    def spec(self) -> FeatureSpec:
        """Returns the model's feature spec."""
        return FeatureSpec.from_dict(self.describe()["spec"])

    def encode(self, mel: ArrayLike) -> Latent:
        """Encodes log-mel windows `[n, n_mels, frames]` in [0, 1]."""
        answer = self._call("encode", mel=_float32(mel))
        return Latent(answer["z_mean"], answer["z_log_var"])

    def encode_audio(self, audio: ArrayLike) -> Encoded:
        """Encodes audio `[n, samples]` at the spec's rate; rows are padded or cut to one window."""
        answer = self._call("encode_audio", audio=_float32(audio))
        return Encoded(answer["z_mean"], answer["z_log_var"], answer["mel"], answer["ref_db"])

    def encode_file(self, path: str | os.PathLike[str], *, overlap_s: float = 0.0) -> Iterator[EncodedWindows]:
        """Encodes an audio file of any length, a batch of windows at a time.

        Args:
            path: audio file of any rate and channel count.
            overlap_s: time that neighbouring windows share, in s.

        Raises:
            AudioError: the file cannot be read as audio.
        """
        windows = windows_of_file(path, self.spec(), overlap_s=overlap_s)
        while batch := list(itertools.islice(windows, _MAX_ROWS)):
            starts = np.array([window.start_s for window in batch])
            yield EncodedWindows(starts, self.encode_audio(np.stack([window.audio for window in batch])))

    def rebuild_file(self, path: str | os.PathLike[str], *, overlap_s: float = 0.0) -> Iterator[RebuiltWindows]:
        """Encodes and decodes an audio file of any length, a batch of windows at a time; see `encode_file`.

        `windows.stitch` joins the audio to one recording.
        """
        for start_s, encoded in self.encode_file(path, overlap_s=overlap_s):
            audio = self.decode_audio(encoded.z_mean, encoded.ref_db)
            yield RebuiltWindows(start_s, encoded, self.decode(encoded.z_mean), audio)

    def decode(self, z: ArrayLike) -> FloatArray:
        """Decodes latents `[n, d]` to log-mel `[n, n_mels, frames]` in [0, 1]."""
        return self._call("decode", z=_float32(z))["mel"]

    def decode_audio(self, z: ArrayLike, ref_db: ArrayLike) -> FloatArray:
        """Decodes latents `[n, d]` at levels `ref_db` `[n]` (dB) to audio `[n, samples]`."""
        return self._call("decode_audio", z=_float32(z), ref_db=_float32(ref_db))["audio"]

    def reconstruct(self, mel: ArrayLike) -> FloatArray:
        """Encodes and decodes log-mel windows `[n, n_mels, frames]`."""
        return self._call("reconstruct", mel=_float32(mel))["mel"]

    def generate(self, seeds: ArrayLike, temperature: ArrayLike = 1.0) -> Generated:
        """Draws one window for each seed; the same seed gives the same window in any batch.

        Args:
            seeds: `[n]` whole numbers.
            temperature: standard deviation of the draw, one for all or `[n]`.
        """
        seed = np.asarray(seeds, np.int64)
        answer = self._call("generate", seed=seed, temperature=np.broadcast_to(_float32(temperature), seed.shape))
        return Generated(answer["z"], answer["mel"])

    def interpolate(self, first: ArrayLike, last: ArrayLike, *, steps: int) -> Generated:
        """Decodes a spherical walk between two latents `[d]`, both ends included.

        Raises:
            UsageError: fewer than two steps.
        """
        z = interpolate(_float32(first), _float32(last), steps=steps)
        return Generated(z, self.decode(z))

    def status(self) -> list[VersionState]:
        """Returns the state of every version that the server knows, newest first."""
        request = protos.GetModelStatusRequest()
        self._name(request.model_spec)
        return [
            VersionState(entry.version, entry.State.Name(entry.state), entry.status.error_message)
            for entry in self._try(self._status, request).model_version_status
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Runs a signature on a batch of any size, in parts of at most `_MAX_ROWS` rows."""
        if self._expected is not None:
            self.describe()
        sizes = {alias: array.shape[0] if array.ndim else None for alias, array in inputs.items()}
        if None in sizes.values() or len(set(sizes.values())) != 1:
            raise RequestRefusedError(f"{signature}: the inputs need one batch dimension, got batch sizes {sizes}")
        rows = next(array.shape[0] for array in inputs.values())
        starts = range(0, max(1, rows), _MAX_ROWS)
        parts = [self._run(signature, {k: v[at : at + _MAX_ROWS] for k, v in inputs.items()}) for at in starts]
        return parts[0] if len(parts) == 1 else {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        request = protos.PredictRequest()
        self._name(request.model_spec)
        request.model_spec.signature_name = signature
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tensors.to_proto(array))
        response = self._try(self._predict, request)
        try:
            return {
                alias: tensors.from_proto(proto, max_bytes=_MAX_TENSOR_BYTES)
                for alias, proto in response.outputs.items()
            }
        except tensors.TensorError as error:
            raise ServerFailedError(f"{self.target}: the answer cannot be read ({error})") from error

    def _name(self, model_spec: Any) -> None:
        model_spec.name = self.model
        if self.version is not None:
            model_spec.version.value = self.version

    def _method(self, path: str, response_class: Any) -> Any:
        return self._channel.unary_unary(
            f"/tensorflow.serving.{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )

    def _try(self, method: Any, request: Any) -> Any:
        """Calls until it works, the error is not UNAVAILABLE, or the deadline would pass."""
        started = time.monotonic()
        deadline, wait, on_wait = started + self.timeout_s, _FIRST_WAIT_S, self._on_wait
        while True:
            try:
                return method(request, timeout=max(0.001, deadline - time.monotonic()))
            except grpc.RpcError as error:
                pause = wait * random.uniform(0.5, 1.5)
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() + pause > deadline:
                    raise self._serving_error(error) from error
                if on_wait is not None and time.monotonic() + pause > started + _QUIET_WAIT_S:
                    on_wait(f"{self.target}: no answer yet; trying for {self.timeout_s:g} s")
                    on_wait = None
            time.sleep(pause)
            wait = min(2 * wait, _MAX_WAIT_S)

    def _serving_error(self, error: Any) -> ServingError:
        code, kind = error.code(), _ERRORS.get(error.code(), ServerFailedError)
        details = " ".join((error.details() or "").split())
        if kind is ServerUnavailableError:
            details = f"no answer within {self.timeout_s:g} s ({details}); is a server running there?"
        return kind(f"{self.target}: {code.name}: {details}")


def _credentials(tls: ClientTls) -> Any:
    if (tls.cert is None) != (tls.key is None):
        raise UsageError("a client certificate needs its key, and a key its certificate: give both or neither")
    with translate_os_errors(tls.ca):
        ca, key, cert = (None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def _float32(values: ArrayLike) -> FloatArray:
    return np.asarray(values, np.float32)
