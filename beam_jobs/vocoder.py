"""The phase vocoder of the waveform engine: analyses a sound once and makes shifted or stretched copies of it.

The method is that of Flanagan and Golden (1966), as
`librosa.effects.pitch_shift` and `time_stretch` implement it, and the samples
are the same. librosa analyses the sound again for each copy and loops over the
frames in Python. Here all copies share one analysis, and a cumulative sum
gives the phases of a copy.
"""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
import soxr
from numpy.typing import NDArray

from tfpipe.features.log_mel import FloatArray

# librosa's defaults. They do not follow the STFT of the features, so that the samples are librosa's.
_N_FFT = 2048
_HOP = 512
_TURN = 2.0 * np.pi


class Vocoder:
    """Makes shifted and stretched copies of a sound, in float64.

    Args:
        audio: the sound, `[samples]`.
        rate: its sample rate, Hz.
    """

    def __init__(self, audio: NDArray[np.floating[Any]], rate: int) -> None:
        self._audio, self._rate = np.asarray(audio, dtype=np.float64), rate
        stft = librosa.stft(self._audio, n_fft=_N_FFT, hop_length=_HOP).T
        self._frames = len(stft)
        # A copy may read up to one frame past the end, so two frames of silence are appended.
        self._magnitude = np.pad(np.abs(stft), ((0, 2), (0, 0)))
        angle = np.pad(np.angle(stft), ((0, 2), (0, 0)))
        expected = np.linspace(0.0, np.pi * _HOP, 1 + _N_FFT // 2)
        surplus = np.diff(angle, axis=0) - expected
        self._advance = expected + surplus - _TURN * np.rint(surplus / _TURN)
        self._first = angle[0]

    def copy(self, *, semitones: float = 0.0, stretch: float = 1.0) -> FloatArray:
        """Returns a copy `[round(samples * stretch)]`, shifted by `semitones`, `stretch` times as long.

        A shift up is made by stretching the sound and resampling the longer copy to the wanted length.
        Without shift and stretch the result is the audio itself.
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
        """Returns the STFT `[frames, bins]` of a copy that advances `step` analysed frames for each of its own.

        Magnitudes are interpolated between neighbouring frames; phases are the sum of the advances so far.
        """
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
