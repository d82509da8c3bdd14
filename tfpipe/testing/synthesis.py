"""A small piano-and-voice corpus made from nothing, for demos and tests.

Piano notes are sums of decaying, slightly inharmonic partials with a hammer
knock; voices are a glottal pulse train through moving formants, with breath,
fricatives and pauses. Enough of the real thing for every stage of the pipeline
to have something to learn; no recording is needed. Loads no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import signal

from tfpipe.audio.wav import write_wav
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import FloatArray

SAMPLE_RATE = 22_050
MAX_SECONDS = 600.0


def synthesise(folder: Path, *, tracks_per_label: int = 6, seconds: float = 14.0, seed: int = 0) -> list[Path]:
    """Writes `Piano/*.wav` and `Voice/*.wav`: mono, 16 bits, 22 050 Hz.

    A track depends on the seed, its label and its number alone: more tracks
    leave the first ones as they were.

    Args:
        folder: made if missing.
        tracks_per_label: number of files of each label.
        seconds: length of each file, in s.
        seed: another seed gives other music and other speakers.

    Returns:
        The paths written, in order.

    Raises:
        UsageError: an argument is out of range.
        TfpipeError: a file cannot be written.
    """
    if tracks_per_label < 1:
        raise UsageError(f"synth: {tracks_per_label} tracks; use 1 or more")
    if not 0.1 <= seconds <= MAX_SECONDS:
        raise UsageError(f"synth: tracks of {seconds:g} s; use 0.1 to {MAX_SECONDS:g} s")
    if seed < 0:
        raise UsageError(f"synth: seed {seed}; use 0 or more")
    count = round(seconds * SAMPLE_RATE)
    makers: dict[str, Callable[[int, Generator], FloatArray]] = {"Piano": piano, "Voice": voice}
    paths = []
    for label_index, (label, make) in enumerate(makers.items()):
        for track in range(tracks_per_label):
            rng = np.random.default_rng([seed, label_index, track])
            path = folder / label / f"{label.lower()}-{track:02d}.wav"
            write_wav(path, make(count, rng), SAMPLE_RATE)
            paths.append(path)
    return paths


def piano(count: int, rng: Generator) -> FloatArray:
    """Plays chords and a melody on one random piano.

    Returns:
        `[count]`, peak 0.5 to 0.9.
    """
    instrument = _Instrument.draw(rng)
    audio = np.zeros(count)
    for note in _score(count / SAMPLE_RATE, rng):
        start = round(note.start_s * SAMPLE_RATE)
        sound = _play(note, instrument=instrument, rng=rng)[: count - start]
        audio[start : start + len(sound)] += sound
    return _finish(audio + _room(audio, instrument.room_s, rng=rng), rng)


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
    return _finish(audio + _room(audio, 0.15, rng=rng), rng)


# ---------------------------------------------------------------- piano


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
    """A key pressed: MIDI pitch, start and length in s, velocity in (0, 1]."""

    pitch: int
    start_s: float
    seconds: float
    velocity: float


_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major, natural minor
_PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (5, 3, 0, 4))  # degrees of the bars


def _score(seconds: float, rng: Generator) -> list[_Note]:
    """Writes bars of four beats: a chord with each, a wandering melody above."""
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


def _play(note: _Note, *, instrument: _Instrument, rng: Generator) -> FloatArray:
    """Renders one note, `[samples]`."""
    f0 = instrument.a4 * 2.0 ** ((note.pitch - 69) / 12.0)
    number = np.arange(1, 41)
    frequency = number * f0 * np.sqrt(1.0 + instrument.inharmonicity * number**2)
    number, frequency = number[frequency < 0.45 * SAMPLE_RATE], frequency[frequency < 0.45 * SAMPLE_RATE]
    # A harder blow is brighter as well as louder.
    tilt = instrument.tilt + 0.8 * (1.0 - note.velocity)
    level = np.abs(np.sin(np.pi * number * instrument.strike)) / number**tilt
    decay_s = instrument.decay_s * np.sqrt(220.0 / f0) / (1.0 + 0.2 * number)
    # Two strings a little out of tune: one decays fast, the other rings on.
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
    return note.velocity**1.5 * attack * (partials * damper + instrument.knock * note.velocity * knock)


def _damped_sines(
    frequency: FloatArray, *, amplitude: FloatArray, decay_s: FloatArray, phase: FloatArray, count: int
) -> FloatArray:
    """Sums `[partials]` damped sines into `[count]` samples.

    `exp(a (i B + j)) = exp(a i B) exp(a j)` makes the sum one matrix product
    of block starts by places in a block: no exponential per partial and sample.
    """
    block = 256
    rate = (2j * np.pi * frequency - 1.0 / decay_s) / SAMPLE_RATE
    starts = np.exp(np.outer(np.arange(-(-count // block)) * block, rate)) * (amplitude * np.exp(1j * phase))
    inside = np.exp(np.outer(rate, np.arange(block)))
    return (starts @ inside).imag.ravel()[:count]


# ---------------------------------------------------------------- voice

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
# Formants move this often: faster than the ear follows, slow enough to be quick.
_UPDATE = 128


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
    """Strings syllables into phrases of 4 to 10, the pitch falling through each, with pauses between."""
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
    return speaker.f0 * 2.0 ** ((contour + vibrato + 0.12 * slow_noise) / 12.0)


def _noise_every_5_ms(seconds: float, rng: Generator) -> FloatArray:
    return rng.standard_normal(len(np.arange(0.0, seconds + 0.01, 0.005)))


def _glottal_source(f0: FloatArray, *, speaker: _Speaker, rng: Generator) -> FloatArray:
    """Returns the derivative of the glottal flow, `[count]`, with breath while the glottis is open.

    The pulse is the cubic of Klatt and Klatt, JASA 87 (1990).
    """
    phase = np.cumsum(f0 / SAMPLE_RATE) % 1.0 / speaker.open_quotient
    is_open = phase < 1.0
    pulse = np.where(is_open, 2.0 * phase - 3.0 * phase**2, 0.0)
    return pulse + speaker.breath * (0.3 + is_open) * rng.standard_normal(len(f0))


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


# ---------------------------------------------------------------- both


def _room(audio: FloatArray, seconds: float, *, rng: Generator) -> FloatArray:
    """Returns a quiet reverberation tail of `audio`, `[count]`."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(time)) * np.exp(-time / (0.3 * seconds))
    response *= 0.25 / np.sqrt(np.sum(response**2))
    return signal.fftconvolve(audio, response)[: len(audio)]


def _finish(audio: NDArray[np.float64], rng: Generator) -> FloatArray:
    """Adds a noise floor near -70 dB and sets the peak between 0.5 and 0.9."""
    audio = audio / max(1e-9, float(np.abs(audio).max()))
    audio = audio + 3e-4 * rng.standard_normal(len(audio))
    return audio * (rng.uniform(0.5, 0.9) / np.abs(audio).max())
