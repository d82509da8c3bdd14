"""Variants of a window: pitch shifts and stacked harmonies, by two engines.

`spectral` reads every shift off one STFT through shifted mel filterbanks (see
`tfpipe.features.mel_basis`). `waveform` is the reference: librosa's phase
vocoder on the window's samples, as in the notebook (In [7]), at many times
the cost. Loads no TensorFlow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from tfpipe.errors import UsageError
from tfpipe.features import FloatArray, LogMel, log_mel, magnitude, mel_basis, normalise
from tfpipe.spec import FeatureSpec

ENGINES = ("spectral", "waveform")
ORIGINAL = "original"
CHORDS: Mapping[str, tuple[float, ...]] = {
    "major": (0, 4, 7),
    "minor": (0, 3, 7),
    "diminished": (0, 3, 6),
    "augmented": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "major7": (0, 4, 7, 11),
    "minor7": (0, 3, 7, 10),
    "dominant7": (0, 4, 7, 10),
    "fifth": (0, 7),
    "octave": (0, 12),
    "notebook": (0, 3, 5),
}
_MAX_SEMITONES = 48.0


@dataclass(frozen=True)
class Variant:
    """What is done to a window: the mean of its copies shifted by `semitones`.

    Attributes:
        name: `original`, `shift+4`, `shift-2.5` or `chord:major`; enough to replay it.
        semitones: shift of each stacked copy.
    """

    name: str
    semitones: tuple[float, ...]

    @classmethod
    def shift(cls, semitones: float) -> Variant:
        """A copy shifted by `semitones` (fractions down to 0.001); 0 is the original.

        Raises:
            UsageError: not a finite number within four octaves.
        """
        if not math.isfinite(semitones) or abs(semitones) > _MAX_SEMITONES:
            raise UsageError(f"a shift of {semitones} semitones cannot be made; use -{_MAX_SEMITONES:g} to 48")
        semitones = round(float(semitones), 3)
        return cls(f"shift{semitones:+g}" if semitones else ORIGINAL, (semitones,))

    @classmethod
    def chord(cls, name: str) -> Variant:
        """A named chord over the original.

        Raises:
            UsageError: unknown name.
        """
        if name not in CHORDS:
            raise UsageError(f"unknown chord {name!r}; known are {', '.join(CHORDS)}")
        return cls(f"chord:{name}", CHORDS[name])

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Reads a variant's name back.

        Raises:
            UsageError: not a variant's name.
        """
        if name == ORIGINAL:
            return cls.shift(0)
        if name.startswith("chord:"):
            return cls.chord(name.removeprefix("chord:"))
        try:
            return cls.shift(float(name.removeprefix("shift")))
        except ValueError as error:
            raise UsageError(f"unknown variant {name!r}; use original, shift+4 or chord:major") from error


class Augmenter:
    """Computes the log-mels of all variants of a window together.

    Args:
        spec: the features.
        variants: what to make, in the order in which `log_mels` returns it.
        engine: `spectral` or `waveform`.

    Raises:
        UsageError: unknown engine.
        TfpipeError: the spectral engine cannot make one of the shifts.
    """

    def __init__(self, spec: FeatureSpec, variants: Sequence[Variant], engine: str = "spectral") -> None:
        if engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}; use one of {', '.join(ENGINES)}")
        self._spec, self._variants, self._engine = spec, tuple(variants), engine
        self._shifts = sorted({shift for variant in variants for shift in variant.semitones})
        if engine == "spectral":
            self._basis = scipy.sparse.vstack([mel_basis(spec, shift) for shift in self._shifts], format="csr")

    def log_mels(self, audio: NDArray[np.floating]) -> list[LogMel]:
        """Returns one log-mel per variant of a window `[samples]`."""
        return self._spectral(audio) if self._engine == "spectral" else self._waveform(audio)

    def _spectral(self, audio: NDArray[np.floating]) -> list[LogMel]:
        """One STFT and one sparse product; stacked copies add in power, as unrelated sounds do."""
        stacked = self._basis @ magnitude(audio, self._spec)
        mels = dict(zip(self._shifts, stacked.reshape(len(self._shifts), self._spec.n_mels, -1), strict=True))
        return [
            normalise(_add_in_power([mels[shift] for shift in variant.semitones], self._spec.power), self._spec)
            for variant in self._variants
        ]

    def _waveform(self, audio: NDArray[np.floating]) -> list[LogMel]:
        copies = {shift: shift_audio(audio, shift, sample_rate=self._spec.sample_rate) for shift in self._shifts}
        return [
            log_mel(stack_audio([copies[shift] for shift in variant.semitones]), self._spec)
            for variant in self._variants
        ]


@functools.lru_cache(maxsize=8)
def cached_augmenter(spec: FeatureSpec, names: tuple[str, ...], engine: str) -> Augmenter:
    """Returns the process's `Augmenter` for these variant names."""
    return Augmenter(spec, [Variant.parse(name) for name in names], engine)


def shift_audio(audio: NDArray[np.floating], semitones: float, *, sample_rate: int) -> FloatArray:
    """Shifts the pitch of `[samples]` and keeps its length (librosa's phase vocoder; notebook In [7])."""
    from librosa.effects import pitch_shift  # takes seconds to import; the spectral engine does without

    audio = np.asarray(audio, dtype=np.float64)
    return pitch_shift(audio, sr=sample_rate, n_steps=semitones) if semitones else audio


def stack_audio(parts: Sequence[NDArray[np.floating]]) -> FloatArray:
    """Returns the mean of equally long `[samples]` parts, which cannot clip where no part does."""
    return np.mean(parts, axis=0)


def _add_in_power(mels: Sequence[FloatArray], power: float) -> FloatArray:
    """Stacks mel spectrograms with the gain 1/n of `stack_audio` on each part."""
    if len(mels) == 1:
        return mels[0]
    if power == 2.0:
        return np.sum(mels, axis=0) / len(mels) ** 2
    return np.sqrt(np.sum(np.square(mels), axis=0)) / len(mels)
