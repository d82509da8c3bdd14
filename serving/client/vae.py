"""The calls of an exported model, whether a server runs it or this process: NumPy arrays in and out."""

from __future__ import annotations

import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.client.answers import Encoded, EncodedWindows, FloatArray, Generated, Latent, RebuiltWindows
from serving.client.connection import RequestRefusedError, SignatureNotFoundError
from serving.client.long_sound import REF_DB, LongSound
from serving.client.windows import interpolate, windows_of_file
from serving.protocol.names import ANY_LABEL, WAV_SIGNATURES
from tfpipe.errors import UsageError
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
        """Returns the model's description: `spec`, `fingerprint`, `labels`, `latent`, `latent_shape`, `prior` and
        `metadata`. Models that were exported before lack `prior`.

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

    def prior(self) -> dict[str, Any] | None:
        """Returns what `describe` says about the learned prior; None is a standard normal one."""
        return self.describe().get("prior")

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

    def decode_wav(self, z: ArrayLike, ref_db: ArrayLike) -> list[bytes]:
        """Decodes latents `[n, d]` at levels `ref_db` `[n]` (dB) to WAV files (mono, 16 bits, the spec's rate).

        Raises:
            RequestRefusedError: the model was exported before it could do this; the message says what to do.
        """
        return list(self._call("decode_wav", z=_float32(z), ref_db=_float32(ref_db))["wav_bytes"])

    def reconstruct_wav(self, wav: bytes) -> bytes:
        """Encodes and decodes the first window of a recording at its own level: a WAV file in, a WAV file out.

        Args:
            wav: a WAV file of 16 bits, of any sample rate and number of channels.

        Raises:
            RequestRefusedError: it is no such file, or the model was exported before it could do this.
        """
        answer: bytes = self._call("reconstruct_wav", wav_bytes=np.array([wav], object))["wav_bytes"][0]
        return answer

    def generate_wav(
        self, seeds: ArrayLike, temperature: ArrayLike = 1.0, label: str | None = None, *, ref_db: ArrayLike = REF_DB
    ) -> list[bytes]:
        """Draws a window for each seed, as a WAV file (mono, 16 bits, the spec's rate); see `generate`.

        Args:
            seeds: `[n]` integers.
            temperature: see `generate`.
            label: see `generate`.
            ref_db: level of the loudest point in dB, one for all or `[n]`.
        """
        inputs = self._draw_inputs(seeds, temperature, label)
        inputs["ref_db"] = np.broadcast_to(_float32(ref_db), inputs["seed"].shape)
        return list(self._call("generate_wav", **inputs)["wav_bytes"])

    @overload
    def generate(self, seeds: ArrayLike, temperature: ArrayLike = ..., label: str | None = ...) -> Generated: ...

    @overload
    def generate(
        self,
        *,
        seconds: float,
        seed: int = ...,
        label: str | None = ...,
        temperature: float = ...,
        ref_db: float = ...,
    ) -> FloatArray: ...

    def generate(
        self,
        seeds: ArrayLike | None = None,
        temperature: ArrayLike = 1.0,
        label: str | None = None,
        *,
        seconds: float | None = None,
        seed: int = 0,
        ref_db: float = REF_DB,
    ) -> Generated | FloatArray:
        """Draws a window for each of `seeds`, or one sound of `seconds` from `seed`.

        A seed gives the same window in any batch. With `seconds`, each window continues the one before
        (`serving.client.long_sound`), which needs a model with a learned prior.

        Example:
            `vae.generate([1, 2, 3])` is `Generated`, `vae.generate(label="Piano", seconds=30)` is audio `[samples]`.

        Args:
            seeds: `[n]` integers.
            temperature: spread of the draw (1.0 is that of the training), one for all or `[n]`.
            label: a label of the model; None is any. Needs a model with a learned prior.
            seconds: length of the sound, s.
            seed: where the sound starts from.
            ref_db: level of the sound's loudest point, dB.

        Raises:
            UsageError: both or neither of `seeds` and `seconds` are given, the label is not known, a value is out of
                range, or the model has no learned prior.
        """
        if (seeds is None) == (seconds is None):
            raise UsageError("give seeds (a window for each) or seconds (one sound of that length), one of the two")
        if seconds is not None:
            made = LongSound(
                self, seconds=seconds, seed=seed, label=label, temperature=float(_float32(temperature)), ref_db=ref_db
            )
            return np.concatenate(list(made))
        answer = self._call("generate", **self._draw_inputs(seeds, temperature, label))
        return Generated(answer["z"], answer["mel"])

    def continue_(
        self, z: ArrayLike, seeds: ArrayLike, temperature: ArrayLike = 1.0, label: str | None = None
    ) -> Generated:
        """Draws the windows that follow the windows `z`.

        The first `prior["kept"]` steps of each (`describe`) are the last steps of its window of `z`.

        Args:
            z: `[n, d]` latents.
            seeds: `[n]` integers.
            temperature: see `generate`.
            label: see `generate`.

        Raises:
            UsageError: the label is not known, or the model has no learned prior.
        """
        self._require_prior("continue")
        answer = self._call("continue", z=_float32(z), **self._draw_inputs(seeds, temperature, label))
        return Generated(answer["z"], answer["mel"])

    def vary(self, z: ArrayLike, amount: ArrayLike, seeds: ArrayLike, label: str | None = None) -> Generated:
        """Moves latents part of the way to noise and back through the prior.

        Args:
            z: `[n, d]` latents.
            amount: 0 (`z` itself) to 1 (a new draw), one for all or `[n]`.
            seeds: `[n]` integers.
            label: see `generate`.

        Raises:
            UsageError: the amount is out of range, the label is not known, or the model has no learned prior.
        """
        self._require_prior("vary")
        seed, amounts = np.asarray(seeds, np.int64), _float32(amount)
        if not bool(np.all((amounts >= 0.0) & (amounts <= 1.0))):
            raise UsageError("an amount is out of range; use 0 (no change) to 1 (a new draw)")
        answer = self._call(
            "vary",
            z=_float32(z),
            amount=np.broadcast_to(amounts, seed.shape),
            seed=seed,
            label=self._label(label, rows=seed.shape),
        )
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

    def _draw_inputs(self, seeds: ArrayLike, temperature: ArrayLike, label: str | None) -> dict[str, NDArray[Any]]:
        """Returns the inputs of a draw that this model takes."""
        seed = np.asarray(seeds, np.int64)
        inputs = {"seed": seed, "temperature": np.broadcast_to(_float32(temperature), seed.shape)}
        if label is not None:
            self._require_prior(f"label {label!r}")
        return {**inputs, "label": self._label(label, rows=seed.shape)} if self.prior() else inputs

    def _label(self, label: str | None, *, rows: tuple[int, ...]) -> NDArray[np.int32]:
        """Returns the number of a label for each row."""
        known = self.describe()["labels"]
        if label is not None and label not in known:
            raise UsageError(f"label {label!r} is not one of the model's, which are {', '.join(known) or 'none'}")
        return np.full(rows, ANY_LABEL if label is None else known.index(label), np.int32)

    def _require_prior(self, what: str) -> None:
        if not self.prior():
            raise UsageError(
                f"{what}: the model at {self.target} has no learned prior; train it with `--prior flow` and export it"
            )

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
        try:
            parts = [self._run(signature, {k: v[at : at + _MAX_ROWS] for k, v in inputs.items()}) for at in starts]
        except SignatureNotFoundError as error:
            if signature not in WAV_SIGNATURES:
                raise
            raise SignatureNotFoundError(
                f"{self.target}: the model was exported before `{signature}` existed; run `tfpipe export` again"
            ) from error
        return parts[0] if len(parts) == 1 else {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _float32(values: ArrayLike) -> FloatArray:
    return np.asarray(values, np.float32)
