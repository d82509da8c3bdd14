"""A synthesised piano: sums of decaying, slightly inharmonic partials with a hammer knock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import signal

from tfpipe.features.log_mel import FloatArray
from tfpipe.testing.recording import SAMPLE_RATE, finish, reverberation


def piano(count: int, rng: Generator) -> FloatArray:
    """Plays chords and a melody on one random piano.

    Returns:
        `[count]`, peak 0.5 to 0.9.
    """
    instrument = _Instrument.draw(rng)
    audio = np.zeros(count)
    for note in _score(count / SAMPLE_RATE, rng):
        start = round(note.start_s * SAMPLE_RATE)
        sound = _render(note, instrument=instrument, rng=rng)[: count - start]
        audio[start : start + len(sound)] += sound
    return finish(audio + reverberation(audio, instrument.room_s, rng=rng), rng)


@dataclass(frozen=True, kw_only=True)
class _Instrument:
    """One piano.

    Attributes:
        a4: tuning of A4, in Hz.
        inharmonicity: string stiffness B in `f_n = n f0 sqrt(1 + B n^2)`.
        tilt: exponent of the partials' fall-off; small is bright.
        strike: where the hammer hits, as a share of the string.
        detune: difference between a note's two strings, as a share of its frequency.
        decay_s: time constant of the first partial of A3, in s.
        knock: level of the hammer noise.
        room_s: length of the reverberation, in s.
    """

    a4: float
    inharmonicity: float
    tilt: float
    strike: float
    detune: float
    decay_s: float
    knock: float
    room_s: float

    @classmethod
    def draw(cls, rng: Generator) -> _Instrument:
        return cls(
            a4=440.0 * 2.0 ** (rng.uniform(-0.3, 0.3) / 12.0),
            inharmonicity=10.0 ** rng.uniform(-4.2, -3.2),
            tilt=rng.uniform(1.0, 1.9),
            strike=rng.uniform(0.10, 0.15),
            detune=rng.uniform(0.0002, 0.0012),
            decay_s=rng.uniform(0.6, 1.4),
            knock=rng.uniform(0.05, 0.2),
            room_s=rng.uniform(0.2, 0.8),
        )


@dataclass(frozen=True, kw_only=True)
class _Note:
    """A key that is pressed: MIDI pitch, start and length in s, velocity in (0, 1]."""

    pitch: int
    start_s: float
    seconds: float
    velocity: float


_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major, natural minor
_PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (5, 3, 0, 4))  # degrees of the bars


def _score(seconds: float, rng: Generator) -> list[_Note]:
    """Composes bars of four beats, each with a chord and a melody above it that moves at random."""
    beat = 60.0 / rng.uniform(66.0, 144.0)
    key = int(rng.integers(41, 53))
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    progression = _PROGRESSIONS[int(rng.integers(len(_PROGRESSIONS)))]
    broken = bool(rng.integers(2))
    notes: list[_Note] = []
    degree = int(rng.integers(7, 12))

    def press(step: int, start_s: float, beats: float, velocity: float) -> None:
        pitch = key + 12 * (step // 7) + scale[step % 7]
        start_s = max(0.0, start_s + rng.normal(0.0, 0.006))
        if start_s < seconds:
            loud = float(np.clip(velocity * rng.uniform(0.8, 1.2), 0.05, 1.0))
            notes.append(_Note(pitch=pitch, start_s=start_s, seconds=beats * beat, velocity=loud))

    for bar in range(int(np.ceil(seconds / (4 * beat)))):
        start_s, root = bar * 4 * beat, progression[bar % 4]
        for index, step in enumerate((root, root + 2, root + 4)):
            press(step, start_s + (index * beat if broken else 0.0), 4.0 - (index if broken else 0), 0.45)
        at = 0.0
        while at < 4.0:
            beats = float(rng.choice([0.5, 0.5, 1.0, 1.0, 2.0]))
            degree = int(np.clip(degree + rng.integers(-3, 4), 5, 17))
            if rng.random() > 0.1:
                press(degree, start_s + at * beat, beats, 0.7)
            at += beats
    return notes


def _render(note: _Note, *, instrument: _Instrument, rng: Generator) -> FloatArray:
    """Renders one note, `[samples]`."""
    f0 = instrument.a4 * 2.0 ** ((note.pitch - 69) / 12.0)
    number = np.arange(1, 41)
    frequency = number * f0 * np.sqrt(1.0 + instrument.inharmonicity * number**2)
    number, frequency = number[frequency < 0.45 * SAMPLE_RATE], frequency[frequency < 0.45 * SAMPLE_RATE]
    # A harder stroke is brighter as well as louder.
    tilt = instrument.tilt + 0.8 * (1.0 - note.velocity)
    level = np.abs(np.sin(np.pi * number * instrument.strike)) / number**tilt
    decay_s = instrument.decay_s * np.sqrt(220.0 / f0) / (1.0 + 0.2 * number)
    # Each note has two strings, a little out of tune. One decays fast, the other slowly.
    partials = _damped_sines(
        np.concatenate([frequency, frequency * (1.0 + instrument.detune)]),
        amplitude=np.concatenate([0.75 * level, 0.25 * level]),
        decay_s=np.concatenate([0.5 * decay_s, 2.0 * decay_s]),
        phase=rng.uniform(0.0, 2.0 * np.pi, 2 * len(number)),
        count=round((note.seconds + 0.3) * SAMPLE_RATE),
    )
    time = np.arange(len(partials)) / SAMPLE_RATE
    damper = np.exp(-np.maximum(0.0, time - note.seconds) / 0.05)
    knock = signal.lfilter([0.15], [1.0, -0.85], rng.standard_normal(len(time))) * np.exp(-time / 0.012)
    attack = np.minimum(1.0, time / 0.003)
    result: FloatArray = note.velocity**1.5 * attack * (partials * damper + instrument.knock * note.velocity * knock)
    return result


def _damped_sines(
    frequency: FloatArray, *, amplitude: FloatArray, decay_s: FloatArray, phase: FloatArray, count: int
) -> FloatArray:
    """Sums `[partials]` damped sines into `[count]` samples.

    Because `exp(a (i B + j)) = exp(a i B) exp(a j)`, the sum is one matrix
    product of the starts of blocks with the positions in a block. This needs far
    fewer exponentials than one for each partial and sample.
    """
    block = 256
    rate = (2j * np.pi * frequency - 1.0 / decay_s) / SAMPLE_RATE
    starts = np.exp(np.outer(np.arange(-(-count // block)) * block, rate)) * (amplitude * np.exp(1j * phase))
    inside = np.exp(np.outer(rate, np.arange(block)))
    result: FloatArray = (starts @ inside).imag.ravel()[:count]
    return result
