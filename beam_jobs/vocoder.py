"""The phase vocoder behind the waveform engine: one analysis, any number of shifted or stretched copies.

The method is Flanagan and Golden's (1966) as `librosa.effects.pitch_shift`
and `time_stretch` use it, and gives their samples. librosa analyses the sound
anew for each copy and steps through its frames in Python; here the analysis is
shared and a copy's phases are one running sum.
"""

from __future__ import annotations

import librosa
import numpy as np
import soxr
from numpy.typing import NDArray

from tfpipe.features.log_mel import FloatArray

# librosa's own defaults; they are the engine's, whatever the features' STFT is.
_N_FFT = 2048
_HOP = 512
_TURN = 2.0 * np.pi


class Vocoder:
    """Makes copies of `audio` `[samples]`, sampled at `rate` Hz, in float64."""

    def __init__(self, audio: NDArray[np.floating], rate: int) -> None:
        self._audio, self._rate = np.asarray(audio, dtype=np.float64), rate
        stft = librosa.stft(self._audio, n_fft=_N_FFT, hop_length=_HOP).T
        self._frames = len(stft)
        # A copy may read up to one frame past the end: two frames of silence follow.
        self._magnitude = np.pad(np.abs(stft), ((0, 2), (0, 0)))
        angle = np.pad(np.angle(stft), ((0, 2), (0, 0)))
        expected = np.linspace(0.0, np.pi * _HOP, 1 + _N_FFT // 2)
        surplus = np.diff(angle, axis=0) - expected
        self._advance = expected + surplus - _TURN * np.rint(surplus / _TURN)
        self._first = angle[0]

    def copy(self, *, semitones: float = 0.0, stretch: float = 1.0) -> FloatArray:
        """Returns a copy `[round(samples * stretch)]`, shifted by `semitones`, lasting `stretch` times as long.

        The untouched copy is the audio itself. A shift up is a longer copy, played faster.
        """
        if not semitones and stretch == 1.0:
            return self._audio
        longer = 2.0 ** (semitones / 12.0)
        count = round(len(self._audio) * stretch)
        sound = librosa.istft(
            self._stretched(2.0 ** (-semitones / 12.0) / stretch).T,
            hop_length=_HOP,
            length=round(len(self._audio) * stretch * longer),
        )
        if semitones:
            sound = soxr.resample(sound, self._rate * longer, self._rate, quality="HQ")[:count]
        return np.pad(sound, (0, count - len(sound)))

    def _stretched(self, step: float) -> NDArray[np.complex128]:
        """Reads the analysis every `step` frames: magnitudes between neighbours, phases summed up, `[frames, bins]`."""
        at = np.arange(0.0, self._frames, step)
        left = at.astype(int)
        weight = (at - left)[:, None]
        phase = np.concatenate([self._first[None], self._advance[left[:-1]]])
        np.cumsum(phase, axis=0, out=phase)
        stft = np.empty(phase.shape, dtype=np.complex128)
        np.cos(phase, out=stft.real)
        np.sin(phase, out=stft.imag)
        stft *= (1.0 - weight) * self._magnitude[left] + weight * self._magnitude[left + 1]
        return stft
