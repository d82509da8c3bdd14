"""Log-mel features as librosa defines them, in NumPy: the definition that the graph must match. Loads no TensorFlow.

Everything is computed in float64. In float32 the job and the graph would differ too much on
pure tones and DC, and the 8-bit codes would depend on the BLAS kernel.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from tfpipe.errors import TfpipeError
from tfpipe.spec import FeatureSpec

FloatArray = NDArray[np.float64]
# STFT frames that are transformed at a time; this many fit into the processor's cache.
_BLOCK = 16
# Slaney's mel scale: linear below the break, logarithmic above it.
_HZ_PER_MEL, _BREAK_HZ, _LOG_STEP = 200.0 / 3.0, 1000.0, np.log(6.4) / 27.0
# 10 * log10(x) = _DB_PER_NEPER * log(x).
_DB_PER_NEPER = 10.0 / math.log(10.0)


class LogMel(NamedTuple):
    """One window's features.

    Attributes:
        mel: `[n_mels, frames]` float64 in [0, 1]; 1 is the window's maximum,
            0 is `top_db` or more below it.
        ref_db: level of that maximum in dB, rounded to 0.001.
    """

    mel: FloatArray
    ref_db: float


def log_mel(audio: NDArray[np.floating[Any]], spec: FeatureSpec) -> LogMel:
    """Computes the features of one window.

    These are the features of the notebook, In [8] (librosa's `melspectrogram`, then
    `power_to_db(ref=np.max)`), scaled from [-top_db, 0] to [0, 1]. Silence is the one exception:
    librosa would give 1.0 everywhere; here mel is 0.0 everywhere and ref_db is `spec.ref_db_floor`.

    Args:
        audio: `[samples]`, full scale is 1.0. Any length is accepted; a window
            of `spec.samples` gives `spec.mel_shape`.
        spec: the feature spec.
    """
    if is_silent(audio, spec):
        frames = 1 + len(audio) // spec.hop
        return LogMel(np.zeros((spec.n_mels, frames)), spec.ref_db_floor)
    return normalise(mel_basis(spec) @ magnitude(audio, spec), spec)


def is_silent(audio: NDArray[np.floating[Any]], spec: FeatureSpec) -> bool:
    """Tells whether the peak of `audio` `[samples]` is below the spec's silence level."""
    return audio.size == 0 or float(np.max(np.abs(audio.astype(np.float32)))) < spec.silence_peak


def magnitude(audio: NDArray[np.floating[Any]], spec: FeatureSpec) -> FloatArray:
    """Computes the STFT magnitude raised to `spec.power`, `[bins, frames]`.

    The audio is first rounded to float32, because requests carry float32. So the job computes from exactly the
    same numbers as the graph.

    Args:
        audio: `[samples]`, full scale is 1.0.
        spec: the feature spec.
    """
    padded = np.pad(np.asarray(audio, dtype=np.float32).astype(np.float64), spec.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop]
    spectrum = np.empty((spec.bins, len(frames)))
    for first in range(0, len(frames), _BLOCK):
        stft = scipy.fft.rfft(frames[first : first + _BLOCK] * _window(spec.n_fft), axis=1)
        # Squares, sums and roots are rounded in the same way on every machine; NumPy's complex magnitude is not.
        power = np.square(stft.real)
        power += np.square(stft.imag)
        spectrum[:, first : first + _BLOCK] = (power if spec.power == 2.0 else np.sqrt(power, out=power)).T
    return spectrum


@functools.cache
def _window(n_fft: int) -> FloatArray:
    """Periodic Hann window, SciPy's to the last bit; importing `scipy.signal` takes half a second."""
    window: FloatArray = 0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, n_fft + 1)[:-1])
    return window


@functools.lru_cache(maxsize=256)
def mel_basis(spec: FeatureSpec, semitones: float = 0.0) -> scipy.sparse.csr_array:
    """Returns the mel filterbank `[n_mels, bins]`, also for audio that is shifted in pitch.

    A shift moves a tone at f to r*f with r = 2**(semitones/12). The filterbank gives the mel bands of
    the shifted audio from the spectrum of the audio itself: each filter is evaluated at r times each
    bin's frequency (the idea is VTLP: Jaitly and Hinton, 2013). It is sparse, because only 2 % of the entries
    are not zero, and because its sums have the same order on every machine.

    Args:
        spec: the feature spec.
        semitones: the shift.

    Raises:
        TfpipeError: the shift leaves a filter without any bin.
    """
    rate = spec.sample_rate * 2.0 ** (semitones / 12.0)
    edges = mel_edges(spec)
    # How far each edge lies above each bin, Hz. A filter rises from its lower edge to its centre, and falls from there.
    above = np.subtract.outer(edges, np.fft.rfftfreq(spec.n_fft, 1.0 / rate))
    widths = np.diff(edges)[:, np.newaxis]
    dense = np.maximum(0.0, np.minimum(-above[:-2] / widths[:-1], above[2:] / widths[1:]))
    dense *= (2.0 / (edges[2:] - edges[:-2]))[:, np.newaxis]  # every filter has the same area
    empty = np.flatnonzero(dense.sum(axis=1) == 0.0)
    if empty.size:
        raise TfpipeError(
            f"a shift of {semitones:+g} semitones leaves {empty.size} of {spec.n_mels} mel bands without data "
            "in the spectral engine; use a smaller shift or --engine waveform"
        )
    return scipy.sparse.csr_array(dense)


def mel_edges(spec: FeatureSpec) -> FloatArray:
    """Returns where the mel bands begin, have their centre and end, `[n_mels + 2]`, Hz.

    Band i begins at edge i, is centred at edge i + 1 and ends at edge i + 2. The edges are equally far apart on
    Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, and 27 mels for a factor of 6.4 above it. They and
    the filters are librosa's to the last bit; librosa is not used, because importing it takes a second.
    """
    mels = np.linspace(_to_mel(spec.fmin), _to_mel(spec.fmax), spec.n_mels + 2)
    edges: FloatArray = _HZ_PER_MEL * mels
    logarithmic = mels >= _BREAK_HZ / _HZ_PER_MEL
    edges[logarithmic] = _BREAK_HZ * np.exp(_LOG_STEP * (mels[logarithmic] - _BREAK_HZ / _HZ_PER_MEL))
    return edges


def _to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return float(_BREAK_HZ / _HZ_PER_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def normalise(mel: FloatArray, spec: FeatureSpec) -> LogMel:
    """Turns mel magnitudes `[n_mels, frames]` into log-mel features in [0, 1]."""
    scaled = np.maximum(mel, spec.amin)
    np.log(scaled, out=scaled)  # takes half the time of log10
    scaled *= _DB_PER_NEPER
    ref_db = float(scaled.max())
    scaled /= spec.top_db
    scaled += 1.0 - ref_db / spec.top_db
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return LogMel(scaled, round(ref_db, 3))


def quantise(mel: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Returns the 8-bit codes of a log-mel in [0, 1]; the mean squared error is about 1.3e-6."""
    codes: NDArray[np.uint8] = np.rint(np.asarray(mel) * 255.0).astype(np.uint8)
    return codes


def dequantise(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the log-mel in [0, 1] of 8-bit codes."""
    return codes.astype(np.float32) / np.float32(255.0)
