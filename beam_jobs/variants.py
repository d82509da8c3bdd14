"""Variants of a window: what each one does, and its name in records and options.

`beam_jobs.engines` computes them. The names are listed in docs/AUGMENTATION.md.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.records import ORIGINAL_NAME
from tfpipe.errors import UsageError

ENGINES = ("spectral", "waveform")
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
_LIMITS = {  # lowest value, highest value and unit, by kind of step
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
    """What is done to a window. The steps run in this order: stretch, stack the shifted copies, add noise, turn down.

    Values are rounded to 0.001.

    Attributes:
        notes: (shift in semitones, level in dB) of each stacked copy. Each copy is weighted by its level, and
            the weights sum to 1. So a chord cannot clip if none of its copies does.
        stretch: factor of the length. The window shows as much of the stretched sound as fits.
        noise_db: level of the added white noise, in dB under the signal's mean power; None adds no noise.
        gain_db: gain in dB, at most 0.

    Raises:
        UsageError: a value is out of range.
    """

    notes: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    stretch: float = 1.0
    noise_db: float | None = None
    gain_db: float = 0.0

    def __post_init__(self) -> None:
        notes = tuple((_in_range("shift", shift), _in_range("level", level)) for shift, level in self.notes)
        if len({shift for shift, _ in notes}) < len(notes) or not notes:
            raise UsageError(f"a chord of {', '.join(f'{shift:g}' for shift, _ in notes)}: give each note once")
        if len(notes) == 1:
            notes = ((notes[0][0], 0.0),)  # a level counts only relative to other notes
        object.__setattr__(self, "notes", notes)
        object.__setattr__(self, "stretch", _in_range("stretch", self.stretch))
        object.__setattr__(self, "noise_db", None if self.noise_db is None else _in_range("noise", self.noise_db))
        object.__setattr__(self, "gain_db", _in_range("gain", self.gain_db))

    @functools.cached_property
    def name(self) -> str:
        """Text that stands for the variant in keys and records: `original`, `shift+4`, `chord:major+noise20dB`."""
        steps = [
            self._notes_name(),
            f"stretch*{self.stretch:g}" if self.stretch != 1.0 else "",
            f"noise{self.noise_db:g}dB" if self.noise_db is not None else "",
            f"gain{self.gain_db:g}dB" if self.gain_db else "",
        ]
        return "+".join(filter(None, steps)) or ORIGINAL_NAME

    @property
    def semitones(self) -> tuple[float, ...]:
        """Shift of each stacked copy, in semitones."""
        return tuple(shift for shift, _ in self.notes)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each stacked copy, `[copies]`; the weights sum to 1."""
        amplitudes = np.array([10.0 ** (level / 20.0) for _, level in self.notes])
        return np.asarray(amplitudes / amplitudes.sum(), dtype=np.float64)

    @property
    def needs_samples(self) -> bool:
        """Tells whether the variant must be computed from samples, because the spectrum is not enough."""
        return self.stretch != 1.0 or self.noise_db is not None

    @classmethod
    def shift(cls, semitones: float) -> Variant:
        """Returns the variant that shifts by `semitones`; 0 gives the original."""
        return cls(notes=((semitones, 0.0),))

    @classmethod
    def chord(cls, name: str) -> Variant:
        """Returns a chord.

        Args:
            name: a name from `CHORDS`, or notes in semitones such as `0:4:7`, each with a level in dB where
                it is not 0: `0:4@-3:7@-6`.

        Raises:
            UsageError: `name` is neither.
        """
        if name in CHORDS:
            return cls(notes=tuple((shift, 0.0) for shift in CHORDS[name]))
        try:
            return cls(notes=tuple(map(_parse_note, name.split(":"))))
        except ValueError as error:
            known = f"{', '.join(CHORDS)}, or notes such as 0:4@-3:7"
            raise UsageError(f"unknown chord {name!r}; known are {known}") from error

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Returns the variant with a given name: `original`, or steps joined by `+`, each kind once.

        Raises:
            UsageError: `name` is no variant's name, or a value is out of range.
        """
        fields: dict[str, object] = {}
        try:
            for step in [] if name == ORIGINAL_NAME else re.split(r"\+(?=[a-z])", name):
                field, value = _parse_step(step)
                if field in fields:
                    raise ValueError(f"{field} is given twice")
                fields[field] = value
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


def _in_range(kind: str, value: float) -> float:
    low, high, unit = _LIMITS[kind]
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"{value:g} {unit} cannot be made; use {low:g} to {high:g}")
    return round(float(value), 3) + 0.0  # turns -0.0 into 0.0


def _parse_note(text: str) -> tuple[float, float]:
    if not (match := _NOTE.fullmatch(text)):
        raise ValueError(f"{text!r} is not a note")
    return float(match[1]), float(match[2] or 0.0)


def _parse_step(step: str) -> tuple[str, object]:
    """Returns the field of `Variant` that one step of a name sets, and its value.

    Raises:
        ValueError: not a step.
    """
    for kind, pattern in _STEPS.items():
        if match := pattern.fullmatch(step):
            if kind in ("shift", "chord"):
                variant = Variant.chord(match[1]) if kind == "chord" else Variant.shift(float(match[1]))
                return "notes", variant.notes
            return {"stretch": "stretch", "noise": "noise_db", "gain": "gain_db"}[kind], float(match[1])
    raise ValueError(f"{step!r} is not a step")


ORIGINAL = Variant()
