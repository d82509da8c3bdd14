"""The two engines that compute the log-mels of a window's variants.

`spectral` computes one STFT for each window and reads every shift from it,
through mel filters at shifted frequencies (`tfpipe.features.log_mel.mel_basis`).
`waveform` is the reference: it shifts the samples with a phase vocoder, as the
notebook does (In [7]), and costs many times as much. Both engines compute
stretch and noise from samples, because a spectrum is not enough for them.
docs/AUGMENTATION.md shows how far the engines differ.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.variants import ENGINES, Variant
from beam_jobs.vocoder import Vocoder
from tfpipe.audio.reader import TrackReader
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import FloatArray, LogMel, log_mel, magnitude, mel_basis, normalise
from tfpipe.spec import FeatureSpec

# The vocoder also reads this much of the track on each side of a window, s; docs/AUGMENTATION.md has the measurement.
MARGIN_S = 0.1


@dataclass(frozen=True)
class Window:
    """A window and access to the track around it, which the vocoder needs.

    Attributes:
        start: first sample of the window.
        total: number of samples in the track.
        read: returns `count` samples from sample `first`, with zeros past the end of the track.
    """

    start: int
    total: int
    read: Callable[[int, int], NDArray[np.floating[Any]]]

    @classmethod
    def of(cls, audio: NDArray[np.floating[Any]], start: int = 0) -> Window:
        """Returns a window of a track in memory, `[samples]`."""
        samples = np.asarray(audio, dtype=np.float64)

        def read(first: int, count: int) -> NDArray[np.floating[Any]]:
            part = samples[first : first + count]
            return np.pad(part, (0, count - len(part)))

        return cls(start, len(audio), read)

    @classmethod
    def of_file(cls, reader: TrackReader, start: int, *, rate: int) -> Window:
        """Returns a window of an open file that starts at sample `start`, counted at `rate` Hz."""
        return cls(start, math.floor(reader.info.seconds * rate), functools.partial(reader.read, rate=rate))


class VariantMaker:
    """Computes the log-mels of a fixed list of variants, window by window.

    Args:
        spec: the features.
        variants: the variants, in the order in which `log_mels` returns them.
        engine: `spectral` or `waveform`.

    Raises:
        UsageError: unknown engine.
        TfpipeError: the spectral engine cannot make one of the shifts.
    """

    def __init__(self, spec: FeatureSpec, variants: Sequence[Variant], engine: str = "spectral") -> None:
        if engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}; use one of {', '.join(ENGINES)}")
        self._spec, self._variants = spec, tuple(variants)
        self._from_spectrum = [engine == "spectral" and not variant.needs_samples for variant in variants]
        shifts = {
            shift
            for variant, from_spectrum in zip(variants, self._from_spectrum, strict=True)
            if from_spectrum
            for shift in variant.semitones
        }
        self._bases = {shift: mel_basis(spec, shift) for shift in sorted(shifts)}

    def log_mels(self, window: Window, keys: Sequence[str] = ()) -> list[LogMel]:
        """Returns one log-mel for each variant.

        Args:
            window: the window to read.
            keys: keys of the examples, which seed the noise; without keys, the variants' names seed it.
        """
        mels = self._shifted_mels(window) if self._bases else {}
        copies = _Copies(window, self._spec)
        made = []
        for variant, from_spectrum, key in zip(
            self._variants, self._from_spectrum, keys or [item.name for item in self._variants], strict=True
        ):
            if from_spectrum:
                stacked = _add_in_power([mels[shift] for shift in variant.semitones], variant.weights, self._spec.power)
                features = normalise(stacked, self._spec)
            else:
                features = log_mel(copies.sound(variant, key), self._spec)
            made.append(_turned_down(features, variant.gain_db, self._spec))
        return made

    def _shifted_mels(self, window: Window) -> dict[float, FloatArray]:
        """Returns the mel spectrogram of each shift.

        One STFT serves all shifts. Each shift is a product of its own, because a
        single product with all filters would not fit into the CPU's cache.
        """
        spectrum = magnitude(window.read(window.start, self._spec.samples), self._spec)
        return {shift: basis @ spectrum for shift, basis in self._bases.items()}


class _Copies:
    """The shifted and stretched copies of one window; the variants share them and the vocoders' analyses."""

    def __init__(self, window: Window, spec: FeatureSpec) -> None:
        self._window, self._spec = window, spec
        self._vocoder = functools.cache(self._analyse)
        self._copy = functools.cache(self._make)

    def sound(self, variant: Variant, key: str) -> FloatArray:
        """Returns the samples of a variant, `[samples]`, before its gain."""
        parts = [self._copy(shift, variant.stretch) for shift in variant.semitones]
        sound = stack_audio(parts, variant.weights)
        return sound if variant.noise_db is None else add_noise(sound, variant.noise_db, key=key)

    def _make(self, semitones: float, stretch: float) -> FloatArray:
        """Cuts the window out of a shifted and stretched copy of the track around it.

        A copy that is shorter than its source needs more of the track than one
        window. It takes what follows the window or, at the end of the track,
        what comes before it.
        """
        count, total = self._spec.samples, self._window.total
        if not semitones and stretch == 1.0:
            return np.asarray(self._window.read(self._window.start, count), dtype=np.float64)
        source = math.ceil(count / min(stretch, 1.0))
        start = min(self._window.start, max(0, total - source))
        margin = round(MARGIN_S * self._spec.sample_rate)
        first = max(0, start - margin)
        last = max(start + source, min(start + source + margin, total))
        copy = self._vocoder(first, last - first).copy(semitones=semitones, stretch=stretch)
        skip = round((start - first) * stretch)
        return copy[skip : skip + count]

    def _analyse(self, first: int, count: int) -> Vocoder:
        return Vocoder(self._window.read(first, count), self._spec.sample_rate)


@functools.lru_cache(maxsize=8)
def cached_maker(spec: FeatureSpec, variants: tuple[Variant, ...], engine: str) -> VariantMaker:
    """Returns a `VariantMaker` that the process keeps, because its mel filters take a while to compute."""
    return VariantMaker(spec, variants, engine)


def stack_audio(parts: Sequence[NDArray[np.floating[Any]]], weights: NDArray[np.floating[Any]]) -> FloatArray:
    """Returns the weighted mean of equally long parts `[samples]`; it cannot clip if no part does."""
    return np.asarray(np.average(parts, axis=0, weights=weights), dtype=np.float64)


def add_noise(audio: NDArray[np.floating[Any]], snr_db: float, *, key: str) -> FloatArray:
    """Returns `audio` `[samples]` with white noise `snr_db` under its mean power.

    The noise depends on `key` alone, on any machine. If the sum exceeds full
    scale, signal and noise are turned down together.
    """
    # RandomState, because its stream never changes; newer generators may change between NumPy versions.
    seed = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    noise = np.random.RandomState(seed).standard_normal(len(audio))
    noisy = audio + noise * math.sqrt(float(np.mean(np.square(audio))) / 10.0 ** (snr_db / 10.0))
    return noisy / max(1.0, float(np.max(np.abs(noisy))))


def _turned_down(features: LogMel, gain_db: float, spec: FeatureSpec) -> LogMel:
    """Applies a gain: it changes the level alone, because the mel is relative to its maximum."""
    if not gain_db or features.ref_db == spec.ref_db_floor:
        return features
    level = features.ref_db + gain_db * spec.power / 2.0
    return LogMel(features.mel, max(spec.ref_db_floor, round(level, 3)))


def _add_in_power(mels: Sequence[FloatArray], weights: FloatArray, power: float) -> FloatArray:
    """Stacks mel spectrograms with the weights of `stack_audio`; copies add in power, as unrelated sounds do."""
    if len(mels) == 1:
        return mels[0]
    stacked: FloatArray
    if power == 2.0:
        stacked = np.sum([mel * weight**2 for mel, weight in zip(mels, weights, strict=True)], axis=0)
    else:
        stacked = np.sqrt(np.sum([np.square(mel * weight) for mel, weight in zip(mels, weights, strict=True)], axis=0))
    return stacked
