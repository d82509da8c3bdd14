"""Calls that decode latents to sounds, and calls that draw new latents: from seeds, or from the latents of a window."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.client.answers import FloatArray, Generated
from serving.client.calls import Calls, float32
from serving.client.connection import RequestRefusedError
from serving.client.long_sound import LongSound
from serving.protocol.names import ANY_LABEL, REF_DB
from tfpipe.errors import UsageError


class Draws(Calls):
    """The calls that decode latents and draw new ones.

    Labels, `continue_`, `vary` and sounds longer than a window need a model with a learned prior.
    """

    def decode(self, z: ArrayLike) -> FloatArray:
        """Decodes latents `[n, d]` to log-mel `[n, n_mels, frames]` in [0, 1]."""
        return self._decode("decode", z)["mel"]

    def decode_audio(self, z: ArrayLike, ref_db: ArrayLike) -> FloatArray:
        """Decodes latents `[n, d]` at levels `ref_db` `[n]` (dB) to audio `[n, samples]`."""
        return self._decode("decode_audio", z, ref_db=float32(ref_db))["audio"]

    def decode_wav(self, z: ArrayLike, ref_db: ArrayLike) -> list[bytes]:
        """Decodes latents `[n, d]` at levels `ref_db` `[n]` (dB) to WAV files (mono, 16 bits, the spec's rate).

        Raises:
            RequestRefusedError: the model was exported before it could do this; the message says what to do.
        """
        return list(self._decode("decode_wav", z, ref_db=float32(ref_db))["wav_bytes"])

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
                self, seconds=seconds, seed=seed, label=label, temperature=float(float32(temperature)), ref_db=ref_db
            )
            return np.concatenate(list(made))
        answer = self.call("generate", **self._draw_inputs(seeds, temperature, label))
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
        self.require_prior("continue")
        answer = self.call("continue", z=self._latents(z), **self._draw_inputs(seeds, temperature, label))
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
        self.require_prior("vary")
        seed, amounts = np.asarray(seeds, np.int64), float32(amount)
        if not bool(np.all((amounts >= 0.0) & (amounts <= 1.0))):
            raise UsageError("an amount is out of range; use 0 (no change) to 1 (a new draw)")
        answer = self.call(
            "vary",
            z=self._latents(z),
            amount=np.broadcast_to(amounts, seed.shape),
            seed=seed,
            label=self._label(label, rows=seed.shape),
        )
        return Generated(answer["z"], answer["mel"])

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
        inputs["ref_db"] = np.broadcast_to(float32(ref_db), inputs["seed"].shape)
        return list(self.call("generate_wav", **inputs)["wav_bytes"])

    def _decode(self, signature: str, z: ArrayLike, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Runs a signature that decodes latents."""
        try:
            return self.call(signature, z=float32(z), **inputs)
        except RequestRefusedError:
            # The model's own message about latents of another length speaks of a reshape somewhere in its graph.
            self._latents(z)
            raise

    def _latents(self, z: ArrayLike) -> FloatArray:
        """Returns latents as an array, and refuses those of another length."""
        latents, size = float32(z), self.describe()["latent"]
        if latents.ndim != 2 or latents.shape[1] != size:
            raise RequestRefusedError(
                f"{self.target}: z has the shape {list(latents.shape)}, but the model's latents are [n, {size}]"
            )
        return latents

    def _draw_inputs(
        self, seeds: ArrayLike | None, temperature: ArrayLike, label: str | None
    ) -> dict[str, NDArray[Any]]:
        """Returns the inputs of a draw that this model takes."""
        seed = np.asarray(() if seeds is None else seeds, np.int64)
        inputs: dict[str, NDArray[Any]] = {
            "seed": seed,
            "temperature": np.broadcast_to(float32(temperature), seed.shape),
        }
        self.require_label(label)
        return {**inputs, "label": self._label(label, rows=seed.shape)} if self.prior() else inputs

    def _label(self, label: str | None, *, rows: tuple[int, ...]) -> NDArray[np.int32]:
        """Returns the number of a label for each row."""
        self.require_label(label)
        return np.full(rows, ANY_LABEL if label is None else self.describe()["labels"].index(label), np.int32)

    def require_label(self, label: str | None) -> None:
        """Refuses a label that the model does not know, and any label if it has no learned prior.

        Raises:
            UsageError: see above.
        """
        if label is None:
            return
        self.require_prior(f"label {label!r}")
        if label not in (known := self.describe()["labels"]):
            raise UsageError(f"label {label!r} is not one of the model's, which are {', '.join(known) or 'none'}")

    def require_prior(self, what: str) -> None:
        """Refuses `what` if the model has no learned prior.

        Raises:
            UsageError: see above.
        """
        if not self.prior():
            raise UsageError(
                f"{what}: the model at {self.target} has no learned prior; train it with `--prior flow` and export it"
            )
