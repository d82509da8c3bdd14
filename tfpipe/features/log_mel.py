"""Log-mel features as librosa defines them, in float64: the definition that the graph must match.

Float64 throughout: in float32 pure tones and DC leave the agreement that
training and serving need, and the 8-bit codes change with the BLAS kernel.
Loads no TensorFlow.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import scipy.signal
import scipy.sparse
from numpy.typing import NDArray

from tfpipe.errors import TfpipeError
from tfpipe.spec import FeatureSpec

FloatArray = NDArray[np.float64]
# Frames that are transformed at once: what the processor's cache holds.
_BLOCK = 16
# Of a power: 10 * log10(e).
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

    Notebook In [8] (librosa `melspectrogram`, then `power_to_db(ref=np.max)`),
    scaled from [-top_db, 0] to [0, 1]. Silence is the one exception: librosa
    would give 1.0 everywhere, here it is 0.0 and the reference floor.

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
    """Tells whether the peak of `audio` `[samples]` is under the spec's silence level."""
    return audio.size == 0 or float(np.max(np.abs(audio.astype(np.float32)))) < spec.silence_peak


def magnitude(audio: NDArray[np.floating[Any]], spec: FeatureSpec) -> FloatArray:
    """Computes the STFT magnitude raised to `spec.power`, `[bins, frames]`.

    A window is float32, as requests carry it, and is computed in float64: so
    the job sees exactly what the graph will see.

    Args:
        audio: `[samples]`, full scale is 1.0.
        spec: the feature spec.
    """
    padded = np.pad(np.asarray(audio, dtype=np.float32).astype(np.float64), spec.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop]
    spectrum = np.empty((spec.bins, len(frames)))
    for first in range(0, len(frames), _BLOCK):
        stft = scipy.fft.rfft(frames[first : first + _BLOCK] * _window(spec.n_fft), axis=1)
        # Squares, sum and root, unlike a complex magnitude, are rounded alike on every machine.
        power = np.square(stft.real)
        power += np.square(stft.imag)
        spectrum[:, first : first + _BLOCK] = (power if spec.power == 2.0 else np.sqrt(power, out=power)).T
    return spectrum


@functools.cache
def _window(n_fft: int) -> FloatArray:
    """Periodic Hann window."""
    return scipy.signal.get_window("hann", n_fft)


@functools.lru_cache(maxsize=256)
def mel_basis(spec: FeatureSpec, semitones: float = 0.0) -> scipy.sparse.csr_array:
    """Returns the mel filterbank `[n_mels, bins]`, seen through a pitch shift.

    A tone at f moves to r*f with r = 2**(semitones/12), so the shifted
    spectrogram is read by evaluating every filter at r times each bin's
    frequency (the idea is VTLP: Jaitly and Hinton, 2013). Sparse: 2 % of the
    entries are not zero, and its sums have one order on every machine.

    Raises:
        TfpipeError: the shift leaves a filter without any bin.
    """
    from librosa.filters import mel as mel_filters  # seconds to import, and not everybody computes

    ratio = 2.0 ** (semitones / 12.0)
    with warnings.catch_warnings(action="ignore"):  # empty filters are refused below
        dense = mel_filters(
            sr=spec.sample_rate * ratio,
            n_fft=spec.n_fft,
            n_mels=spec.n_mels,
            fmin=spec.fmin,
            fmax=spec.fmax,
            dtype=np.float64,
        )
    empty = np.flatnonzero(dense.sum(axis=1) == 0.0)
    if empty.size:
        raise TfpipeError(
            f"a shift of {semitones:+g} semitones leaves {empty.size} of {spec.n_mels} mel bands without data "
            "in the spectral engine; use a smaller shift or --engine waveform"
        )
    return scipy.sparse.csr_array(dense)


def normalise(mel: FloatArray, spec: FeatureSpec) -> LogMel:
    """Turns mel magnitudes `[n_mels, frames]` into the [0, 1] log scale of the spec."""
    scaled = np.maximum(mel, spec.amin)
    np.log(scaled, out=scaled)  # half the time of log10
    scaled *= _DB_PER_NEPER
    ref_db = float(scaled.max())
    scaled /= spec.top_db
    scaled += 1.0 - ref_db / spec.top_db
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return LogMel(scaled, round(ref_db, 3))


def quantise(mel: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Returns the 8-bit codes of a log-mel in [0, 1]; the mean squared error is about 1.3e-6."""
    return np.rint(np.asarray(mel) * 255.0).astype(np.uint8)


def dequantise(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the log-mel in [0, 1] that 8-bit codes stand for."""
    return codes.astype(np.float32) / np.float32(255.0)
