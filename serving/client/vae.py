"""The calls of an exported model, whether a server runs it or this process: NumPy arrays in and out."""

from __future__ import annotations

import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.client.answers import Encoded, EncodedWindows, FloatArray, Generated, Latent, RebuiltWindows
from serving.client.connection import RequestRefusedError
from serving.client.windows import interpolate, windows_of_file
from tfpipe.spec import FeatureSpec, require_same_spec

# Rows of one call: 32 windows of audio are 14 MB.
_MAX_ROWS = 32


class Vae(ABC):
    """An exported model. `Client` asks a server for it, `LocalModel` runs it in this process.

    A large batch is sent in several calls. `with` closes it at the end.

    Attributes:
        target: where the model is: `HOST:PORT` or a folder.
    """

    def __init__(self, target: str, *, expected_spec: FeatureSpec | None = None) -> None:
        self.target, self._expected = target, expected_spec
        self._description: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the model's description: `spec`, `fingerprint`, `labels`, `latent`, `latent_shape` and `metadata`.

        Raises:
            SpecMismatch: the model's feature spec is not `expected_spec`.
            ServingError: the request failed; `serving.client.connection` has a class for each reason.
        """
        if self._description is None:
            answer = self._run("spec", {"index": np.zeros(1, np.int32)})
            description = json.loads(answer["json"][0])
            if self._expected is not None:
                served = FeatureSpec.from_dict(description["spec"])
                require_same_spec(self._expected, served, expected_from="the caller", actual_from=self.target)
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
        """Encodes audio `[n, samples]` at the spec's sample rate. Rows are padded or cut to one window."""
        answer = self._call("encode_audio", audio=_float32(audio))
        return Encoded(answer["z_mean"], answer["z_log_var"], answer["mel"], answer["ref_db"])

    def encode_file(self, path: str | os.PathLike[str], *, overlap_s: float = 0.0) -> Iterator[EncodedWindows]:
        """Encodes an audio file of any length, a batch of windows at a time.

        Args:
            path: audio file of any sample rate and number of channels.
            overlap_s: time that neighbouring windows share, in s.

        Raises:
            AudioError: the file cannot be read as audio.
        """
        windows = windows_of_file(path, self.spec(), overlap_s=overlap_s)
        while batch := list(itertools.islice(windows, _MAX_ROWS)):
            starts = np.array([window.start_s for window in batch])
            yield EncodedWindows(starts, self.encode_audio(np.stack([window.audio for window in batch])))

    def rebuild_file(self, path: str | os.PathLike[str], *, overlap_s: float = 0.0) -> Iterator[RebuiltWindows]:
        """Encodes and decodes an audio file of any length, a batch of windows at a time.

        The arguments and errors are those of `encode_file`. `windows.stitch` joins the audio to one recording.
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
        """Draws a window for each seed. A seed gives the same window in any batch.

        Args:
            seeds: `[n]` integers.
            temperature: standard deviation of the latents, one for all or `[n]`.
        """
        seed = np.asarray(seeds, np.int64)
        answer = self._call("generate", seed=seed, temperature=np.broadcast_to(_float32(temperature), seed.shape))
        return Generated(answer["z"], answer["mel"])

    def interpolate(self, first: ArrayLike, last: ArrayLike, *, steps: int) -> Generated:
        """Decodes `steps` latents on the way from `first` `[d]` to `last` `[d]`; see `windows.interpolate`.

        Raises:
            UsageError: fewer than two steps.
        """
        z = interpolate(_float32(first), _float32(last), steps=steps)
        return Generated(z, self.decode(z))

    @abstractmethod
    def close(self) -> None:
        """Frees what the model holds; call nothing else afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs a signature on one batch."""

    def _call(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Runs a signature on a batch of any size, in requests of at most `_MAX_ROWS` rows."""
        if self._expected is not None:
            self.describe()
        sizes = {alias: array.shape[0] if array.ndim else None for alias, array in inputs.items()}
        if None in sizes.values() or len(set(sizes.values())) != 1:
            raise RequestRefusedError(
                f"{signature}: the inputs need the same first dimension, the batch; they have {sizes}"
            )
        rows = next(array.shape[0] for array in inputs.values())
        starts = range(0, max(1, rows), _MAX_ROWS)
        parts = [self._run(signature, {k: v[at : at + _MAX_ROWS] for k, v in inputs.items()}) for at in starts]
        return parts[0] if len(parts) == 1 else {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _float32(values: ArrayLike) -> FloatArray:
    return np.asarray(values, np.float32)
