"""Variants of a window: pitch shifts, chords, time stretch, noise and gain, by two engines.

`spectral` reads every shift off one STFT through shifted mel filterbanks (see
`tfpipe.features.log_mel.mel_basis`). `waveform` is the reference: the phase vocoder on
the samples, as in the notebook (In [7]), at many times the cost. What only
samples can show, stretch and noise, takes the waveform path in both. Where
they differ, and by how much: docs/AUGMENTATION.md. Loads no TensorFlow.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beam_jobs.vocoder import Vocoder
from tfpipe.audio.reader import TrackReader
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import FloatArray, LogMel, log_mel, magnitude, mel_basis, normalise
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
# Of the track on each side of a window that the vocoder sees too; measured in docs/AUGMENTATION.md.
MARGIN_S = 0.1
_LIMITS = {  # what a value of each kind may be, and its unit
    "shift": (-48.0, 48.0, "semitones"),
    "level": (-40.0, 40.0, "dB for a note of a chord"),
    "stretch": (0.25, 4.0, "times the length"),
    "noise": (-20.0, 100.0, "dB signal to noise"),
    "gain": (-40.0, 0.0, "dB of gain (a louder copy could clip)"),
}
_NUMBER = r"[+-]?[\d.]+"
_STEPS = {
    "shift": re.compile(rf"shift({_NUMBER})"),
    "chord": re.compile(r"chord:(.+)"),
    "stretch": re.compile(rf"stretch\*({_NUMBER})"),
    "noise": re.compile(rf"noise({_NUMBER})dB"),
    "gain": re.compile(rf"gain({_NUMBER})dB"),
}
_NOTE = re.compile(rf"({_NUMBER})(?:@({_NUMBER}))?")


@dataclass(frozen=True)
class Variant:
    """What is done to a window, in this order: stretch, stack the shifted notes, add noise, turn down.

    Values are kept to 0.001.

    Attributes:
        notes: (shift in semitones, level in dB) of each stacked copy. Copies are weighted by
            their levels and the weights sum to 1, so that a chord cannot clip where no copy does.
        stretch: the copy lasts so many times as long; the window shows as much of it as fits.
        noise_db: white noise that many dB under the signal's mean power, or None.
        gain_db: at most 0.

    Raises:
        UsageError: a value that cannot be made.
    """

    notes: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    stretch: float = 1.0
    noise_db: float | None = None
    gain_db: float = 0.0

    def __post_init__(self) -> None:
        notes = tuple((_value("shift", shift), _value("level", level)) for shift, level in self.notes)
        if len({shift for shift, _ in notes}) < len(notes) or not notes:
            raise UsageError(f"a chord of {', '.join(f'{shift:g}' for shift, _ in notes)}: give each note once")
        if len(notes) == 1:
            notes = ((notes[0][0], 0.0),)  # levels are relative to each other
        object.__setattr__(self, "notes", notes)
        object.__setattr__(self, "stretch", _value("stretch", self.stretch))
        object.__setattr__(self, "noise_db", None if self.noise_db is None else _value("noise", self.noise_db))
        object.__setattr__(self, "gain_db", _value("gain", self.gain_db))

    @property
    def name(self) -> str:
        """`original`, or what is done (`shift+4`, `chord:major+noise20dB`); with the key enough to replay it."""
        steps = [
            self._notes_name(),
            f"stretch*{self.stretch:g}" if self.stretch != 1.0 else "",
            f"noise{self.noise_db:g}dB" if self.noise_db is not None else "",
            f"gain{self.gain_db:g}dB" if self.gain_db else "",
        ]
        return "+".join(filter(None, steps)) or ORIGINAL

    @property
    def semitones(self) -> tuple[float, ...]:
        """Shift of each stacked copy."""
        return tuple(shift for shift, _ in self.notes)

    @property
    def weights(self) -> FloatArray:
        """Share of each copy in the stack; they sum to 1."""
        amplitudes = np.array([10.0 ** (level / 20.0) for _, level in self.notes])
        return amplitudes / amplitudes.sum()

    @property
    def needs_samples(self) -> bool:
        """Tells whether no engine can read it off the window's spectrum."""
        return self.stretch != 1.0 or self.noise_db is not None

    @classmethod
    def shift(cls, semitones: float) -> Variant:
        """A copy shifted by `semitones`; 0 is the original."""
        return cls(notes=((semitones, 0.0),))

    @classmethod
    def chord(cls, name: str) -> Variant:
        """A chord: a name from `CHORDS`, or its notes `0:4:7`, each with a level in dB if need be: `0:4@-3:7@-6`.

        Raises:
            UsageError: neither of them.
        """
        if name in CHORDS:
            return cls(notes=tuple((shift, 0.0) for shift in CHORDS[name]))
        try:
            return cls(notes=tuple(map(_note, name.split(":"))))
        except ValueError as error:
            known = f"{', '.join(CHORDS)}, or notes such as 0:4@-3:7"
            raise UsageError(f"unknown chord {name!r}; known are {known}") from error

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Reads a variant's name: `original`, or steps joined by `+`, each kind once.

        Raises:
            UsageError: not a variant's name, or a value that cannot be made.
        """
        fields: dict[str, object] = {}
        try:
            for step in [] if name == ORIGINAL else re.split(r"\+(?=[a-z])", name):
                field, value = _step(step)
                if fields.setdefault(field, value) is not value:
                    raise ValueError(f"{field} stands twice")
        except ValueError as error:
            known = "original, shift+4, chord:major, stretch*1.1, noise20dB, gain-6dB, or some joined by +"
            raise UsageError(f"unknown variant {name!r}; use {known}") from error
        return cls(**fields)  # type: ignore[arg-type]

    def _notes_name(self) -> str:
        if len(self.notes) == 1:
            return f"shift{self.notes[0][0]:+g}" if self.notes[0][0] else ""
        if not any(level for _, level in self.notes):
            for name, shifts in CHORDS.items():
                if shifts == self.semitones:
                    return f"chord:{name}"
        return "chord:" + ":".join(f"{shift:g}" + (f"@{level:g}" if level else "") for shift, level in self.notes)


@dataclass(frozen=True)
class Window:
    """A window where it stands in its track; the vocoder looks a little around it.

    Attributes:
        start: first sample of the window.
        total: samples in the track.
        read: returns `count` samples from `first`, zeros past the end.
    """

    start: int
    total: int
    read: Callable[[int, int], NDArray[np.floating]]

    @classmethod
    def of(cls, audio: NDArray[np.floating], start: int = 0) -> Window:
        """A window of a track that is in memory, `[samples]`."""
        ended = np.asarray(audio, dtype=np.float64)
        return cls(
            start, len(audio), lambda first, count: np.pad(part := ended[first : first + count], (0, count - len(part)))
        )

    @classmethod
    def of_file(cls, reader: TrackReader, start: int, *, rate: int) -> Window:
        """A window of a file that is open, from sample `start` at `rate` Hz; reads only its own part."""
        return cls(start, math.floor(reader.info.seconds * rate), functools.partial(reader.read, rate=rate))


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
        self._spec, self._variants = spec, tuple(variants)
        self._by_spectrum = [engine == "spectral" and not variant.needs_samples for variant in variants]
        read_off = [variant for variant, spectral in zip(variants, self._by_spectrum, strict=True) if spectral]
        shifts = sorted({shift for variant in read_off for shift in variant.semitones})
        self._bases = {shift: mel_basis(spec, shift) for shift in shifts}

    def log_mels(self, window: Window, keys: Sequence[str] = ()) -> list[LogMel]:
        """Returns one log-mel per variant.

        Args:
            window: what to read.
            keys: the examples' keys, which seed the noise; the variants' names when empty.
        """
        mels = self._shifted_mels(window) if self._bases else {}
        copies = _Copies(window, self._spec)
        made = []
        for variant, spectral, key in zip(
            self._variants, self._by_spectrum, keys or [item.name for item in self._variants], strict=True
        ):
            if spectral:
                stacked = _add_in_power([mels[shift] for shift in variant.semitones], variant.weights, self._spec.power)
                features = normalise(stacked, self._spec)
            else:
                features = log_mel(copies.sound(variant, key), self._spec)
            made.append(_turned_down(features, variant.gain_db, self._spec))
        return made

    def _shifted_mels(self, window: Window) -> dict[float, FloatArray]:
        """One STFT for all shifts, and a small sparse product for each: together they would leave the cache."""
        spectrum = magnitude(window.read(window.start, self._spec.samples), self._spec)
        return {shift: basis @ spectrum for shift, basis in self._bases.items()}


class _Copies:
    """The shifted and stretched copies of one window; variants share them and the vocoders' analyses."""

    def __init__(self, window: Window, spec: FeatureSpec) -> None:
        self._window, self._spec = window, spec
        self._vocoder = functools.cache(self._analyse)
        self._copy = functools.cache(self._make)

    def sound(self, variant: Variant, key: str) -> FloatArray:
        """Returns `[samples]` of a variant, but for its gain."""
        parts = [self._copy(shift, variant.stretch) for shift in variant.semitones]
        sound = stack_audio(parts, variant.weights)
        return sound if variant.noise_db is None else add_noise(sound, variant.noise_db, key=key)

    def _make(self, semitones: float, stretch: float) -> FloatArray:
        """Cuts the window out of a copy of the track around it.

        A copy that is shorter than its source needs more of the track: what follows the
        window, or, where the track ends, what went before.
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
def cached_augmenter(spec: FeatureSpec, names: tuple[str, ...], engine: str) -> Augmenter:
    """Returns the process's `Augmenter` for these variant names."""
    return Augmenter(spec, [Variant.parse(name) for name in names], engine)


def stack_audio(parts: Sequence[NDArray[np.floating]], weights: NDArray[np.floating]) -> FloatArray:
    """Returns the weighted mean of equally long `[samples]` parts, which cannot clip where no part does."""
    return np.average(parts, axis=0, weights=weights)


def add_noise(audio: NDArray[np.floating], snr_db: float, *, key: str) -> FloatArray:
    """Adds white noise `snr_db` under the mean power of `[samples]`; the same for the same key, anywhere.

    Where the sum would pass full scale, signal and noise are turned down together.
    """
    # RandomState's stream is frozen for good; newer generators may change theirs between NumPy versions.
    seed = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    noise = np.random.RandomState(seed).standard_normal(len(audio))
    noisy = audio + noise * math.sqrt(float(np.mean(np.square(audio))) / 10.0 ** (snr_db / 10.0))
    return noisy / max(1.0, float(np.max(np.abs(noisy))))


def _turned_down(features: LogMel, gain_db: float, spec: FeatureSpec) -> LogMel:
    """A gain moves the level and leaves the shape: the mel is relative to its maximum."""
    if not gain_db or features.ref_db == spec.ref_db_floor:
        return features
    level = features.ref_db + gain_db * spec.power / 2.0
    return LogMel(features.mel, max(spec.ref_db_floor, round(level, 3)))


def _add_in_power(mels: Sequence[FloatArray], weights: FloatArray, power: float) -> FloatArray:
    """Stacks mel spectrograms with the weights of `stack_audio`; copies add in power, as unrelated sounds do."""
    if len(mels) == 1:
        return mels[0]
    if power == 2.0:
        return np.sum([mel * weight**2 for mel, weight in zip(mels, weights, strict=True)], axis=0)
    return np.sqrt(np.sum([np.square(mel * weight) for mel, weight in zip(mels, weights, strict=True)], axis=0))


def _value(kind: str, value: float) -> float:
    low, high, unit = _LIMITS[kind]
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{value:g} {unit} cannot be made; use {low:g} to {high:g}")
    return round(float(value), 3) + 0.0  # no minus in front of a zero


def _note(text: str) -> tuple[float, float]:
    if not (match := _NOTE.fullmatch(text)):
        raise ValueError(f"{text!r} is no note")
    return float(match[1]), float(match[2] or 0.0)


def _step(step: str) -> tuple[str, object]:
    """Returns the field of `Variant` and its value for one step of a name.

    Raises:
        ValueError: not a step.
    """
    for kind, pattern in _STEPS.items():
        if match := pattern.fullmatch(step):
            if kind in ("shift", "chord"):
                made = Variant.chord(match[1]) if kind == "chord" else Variant.shift(float(match[1]))
                return "notes", made.notes
            field = {"stretch": "stretch", "noise": "noise_db", "gain": "gain_db"}[kind]
            return field, float(match[1])
    raise ValueError(f"{step!r} is no step")
