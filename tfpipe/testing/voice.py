"""A synthesised voice: a glottal pulse train through moving formants, with breath, fricatives and pauses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import signal

from tfpipe.features.log_mel import FloatArray
from tfpipe.testing.recording import SAMPLE_RATE, finish, reverberation

# Formants F1-F3 of five vowels, in Hz: adult men's means in Peterson and Barney,
# "Control methods used in a study of the vowels", JASA 24 (1952); F4 to F6 are common values.
_VOWELS = np.array(
    [
        (730.0, 1090.0, 2440.0, 3400.0, 4500.0, 5500.0),  # a
        (530.0, 1840.0, 2480.0, 3500.0, 4500.0, 5500.0),  # e
        (270.0, 2290.0, 3010.0, 3600.0, 4500.0, 5500.0),  # i
        (570.0, 840.0, 2410.0, 3300.0, 4500.0, 5500.0),  # o
        (300.0, 870.0, 2240.0, 3300.0, 4500.0, 5500.0),  # u
    ]
)
_BANDWIDTHS = np.array([80.0, 90.0, 140.0, 220.0, 300.0, 400.0])
# Samples between updates of the formants (6 ms): faster than the ear can follow, and cheap to compute.
_UPDATE = 128


def voice(count: int, rng: Generator) -> FloatArray:
    """Speaks nonsense syllables with one random voice.

    Returns:
        `[count]`, peak 0.5 to 0.9.
    """
    speaker = _Speaker.draw(rng)
    syllables = _speech(count / SAMPLE_RATE, speaker=speaker, rng=rng)
    loudness = _loudness(syllables, count=count)
    source = _glottal_source(_pitch(syllables, speaker=speaker, count=count, rng=rng), speaker=speaker, rng=rng)
    voiced = _through_formants(source * loudness, _formants(syllables, speaker=speaker, count=count))
    voiced /= max(1e-9, np.abs(voiced).max())
    audio = voiced + _fricatives(syllables, count=count, rng=rng)
    return finish(audio + reverberation(audio, 0.15, rng=rng), rng)


@dataclass(frozen=True, kw_only=True)
class _Speaker:
    """One voice.

    Attributes:
        f0: middle of the pitch range, in Hz.
        formant_scale: shorter vocal tracts have higher formants.
        open_quotient: share of a period in which the glottis is open.
        breath: level of the noise in the source.
        vibrato: depth in semitones.
        syllables_per_s: speed of speech.
    """

    f0: float
    formant_scale: float
    open_quotient: float
    breath: float
    vibrato: float
    syllables_per_s: float

    @classmethod
    def draw(cls, rng: Generator) -> _Speaker:
        f0 = float(np.exp(rng.uniform(np.log(90.0), np.log(240.0))))
        return cls(
            f0=f0,
            formant_scale=1.0 + 0.18 * np.log2(f0 / 90.0) / np.log2(240.0 / 90.0) + rng.uniform(-0.03, 0.03),
            open_quotient=rng.uniform(0.5, 0.75),
            breath=rng.uniform(0.01, 0.05),
            vibrato=rng.uniform(0.05, 0.4),
            syllables_per_s=rng.uniform(2.5, 5.0),
        )


@dataclass(frozen=True, kw_only=True)
class _Syllable:
    """One syllable: start and length in s, vowel number, pitch in semitones about f0, stress, fricative length in s."""

    start_s: float
    seconds: float
    vowel: int
    pitch: float
    stress: float
    fricative_s: float

    @property
    def middle_s(self) -> float:
        return self.start_s + self.seconds / 2


def _speech(seconds: float, *, speaker: _Speaker, rng: Generator) -> list[_Syllable]:
    """Makes phrases of 4 to 10 syllables with pauses between them; the pitch falls during a phrase."""
    syllables: list[_Syllable] = []
    at = rng.uniform(0.05, 0.2)
    while at < seconds or not syllables:
        length = int(rng.integers(4, 11))
        for index in range(length):
            duration = rng.uniform(0.75, 1.35) / speaker.syllables_per_s
            fricative_s = min(rng.uniform(0.06, 0.13), 0.4 * duration) if rng.random() < 0.35 else 0.0
            syllables.append(
                _Syllable(
                    start_s=at,
                    seconds=duration,
                    vowel=int(rng.integers(len(_VOWELS))),
                    pitch=2.5 - 5.0 * index / length + rng.normal(0.0, 1.2),
                    stress=rng.uniform(0.5, 1.0),
                    fricative_s=fricative_s,
                )
            )
            at += duration
        at += rng.uniform(0.25, 0.6)
    return syllables


def _loudness(syllables: list[_Syllable], *, count: int) -> FloatArray:
    """Returns the envelope of the voiced sound, `[count]`, in [0, 1]."""
    envelope = np.zeros(count)
    for syllable in syllables:
        voiced_s = syllable.seconds - syllable.fricative_s
        start = round((syllable.start_s + syllable.fricative_s) * SAMPLE_RATE)
        shape = syllable.stress * signal.windows.tukey(round(voiced_s * SAMPLE_RATE), 0.6)[: max(0, count - start)]
        envelope[start : start + len(shape)] = shape
    return envelope


def _pitch(syllables: list[_Syllable], *, speaker: _Speaker, count: int, rng: Generator) -> FloatArray:
    """Returns the fundamental frequency, `[count]`, in Hz: a smooth contour with vibrato and jitter."""
    time = np.arange(count) / SAMPLE_RATE
    contour = np.interp(time, [s.middle_s for s in syllables], [s.pitch for s in syllables])
    vibrato = speaker.vibrato * np.sin(2.0 * np.pi * rng.uniform(4.5, 6.5) * time)
    slow_noise = np.interp(time, np.arange(0.0, time[-1] + 0.01, 0.005), _noise_every_5_ms(time[-1], rng))
    result: FloatArray = speaker.f0 * 2.0 ** ((contour + vibrato + 0.12 * slow_noise) / 12.0)
    return result


def _noise_every_5_ms(seconds: float, rng: Generator) -> FloatArray:
    return rng.standard_normal(len(np.arange(0.0, seconds + 0.01, 0.005)))


def _glottal_source(f0: FloatArray, *, speaker: _Speaker, rng: Generator) -> FloatArray:
    """Returns the derivative of the glottal flow, `[count]`, with breath while the glottis is open.

    The pulse is the cubic of Klatt and Klatt, JASA 87 (1990).
    """
    phase = np.cumsum(f0 / SAMPLE_RATE) % 1.0 / speaker.open_quotient
    is_open = phase < 1.0
    pulse = np.where(is_open, 2.0 * phase - 3.0 * phase**2, 0.0)
    result: FloatArray = pulse + speaker.breath * (0.3 + is_open) * rng.standard_normal(len(f0))
    return result


def _formants(syllables: list[_Syllable], *, speaker: _Speaker, count: int) -> FloatArray:
    """Returns gliding formant frequencies, `[blocks, 6]`, in Hz."""
    time = (np.arange(-(-count // _UPDATE)) + 0.5) * _UPDATE / SAMPLE_RATE
    middles = [syllable.middle_s for syllable in syllables]
    targets = _VOWELS[[syllable.vowel for syllable in syllables]] * speaker.formant_scale
    return np.stack([np.interp(time, middles, target) for target in targets.T], axis=1)


def _through_formants(source: FloatArray, formants: FloatArray) -> FloatArray:
    """Filters `[count]` by a cascade of resonators that move block by block."""
    radius = np.exp(-np.pi * _BANDWIDTHS / SAMPLE_RATE)
    a1 = -2.0 * radius * np.cos(2.0 * np.pi * formants / SAMPLE_RATE)
    a2 = np.broadcast_to(radius**2, a1.shape)
    sections = np.zeros((*formants.shape, 6))
    sections[..., 0] = 1.0 + a1 + a2  # unit gain at 0 Hz
    sections[..., 3], sections[..., 4], sections[..., 5] = 1.0, a1, a2
    state = np.zeros((formants.shape[1], 2))
    output = np.empty_like(source)
    for index, section in enumerate(sections):
        block = slice(index * _UPDATE, (index + 1) * _UPDATE)
        output[block], state = signal.sosfilt(section, source[block], zi=state)
    return output


def _fricatives(syllables: list[_Syllable], *, count: int, rng: Generator) -> FloatArray:
    """Returns bursts of high noise at the start of some syllables, `[count]`."""
    audio = np.zeros(count)
    for syllable in syllables:
        start, length = round(syllable.start_s * SAMPLE_RATE), round(syllable.fricative_s * SAMPLE_RATE)
        if not length:
            continue
        low = rng.uniform(2200.0, 4500.0)
        band = signal.butter(2, [low, min(2.2 * low, 9500.0)], "bandpass", fs=SAMPLE_RATE, output="sos")
        burst = signal.sosfilt(band, rng.standard_normal(length)) * np.hanning(length)
        audio[start : start + length] += 0.15 * syllable.stress * burst[: max(0, count - start)]
    return audio
