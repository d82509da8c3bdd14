"""Log-mel features with librosa in float64: the definition that the graph must match.

Float64 throughout: in float32 pure tones and DC leave the agreement that
training and serving need, and the 8-bit codes change with the BLAS kernel.
Loads no TensorFlow.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import librosa
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from tfpipe.errors import TfpipeError
from tfpipe.spec import FeatureSpec

FloatArray = NDArray[np.float64]


class LogMel(NamedTuple):
    """One window's features.

    Attributes:
        mel: `[n_mels, frames]` float64 in [0, 1]; 1 is the window's maximum,
            0 is `top_db` or more below it.
        ref_db: level of that maximum in dB, rounded to 0.001.
    """

    mel: FloatArray
    ref_db: float


def log_mel(audio: NDArray[np.floating], spec: FeatureSpec) -> LogMel:
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


def is_silent(audio: NDArray[np.floating], spec: FeatureSpec) -> bool:
    """Tells whether the peak of `audio` `[samples]` is under the spec's silence level."""
    return audio.size == 0 or float(np.max(np.abs(audio.astype(np.float32)))) < spec.silence_peak


def magnitude(audio: NDArray[np.floating], spec: FeatureSpec) -> FloatArray:
    """Computes the STFT magnitude raised to `spec.power`, `[bins, frames]`.

    A window is float32, as requests carry it, and is computed in float64: so
    the job sees exactly what the graph will see.

    Args:
        audio: `[samples]`, full scale is 1.0.
        spec: the feature spec.
    """
    stft = librosa.stft(
        np.ascontiguousarray(audio, dtype=np.float32).astype(np.float64),
        n_fft=spec.n_fft,
        hop_length=spec.hop,
        center=True,
        pad_mode="constant",
    )
    spectrum = np.abs(stft)
    return spectrum if spec.power == 1.0 else spectrum**spec.power


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
    peak = max(float(mel.max()), spec.amin)
    ref_db = 10.0 * np.log10(peak)
    decibel = 10.0 * np.log10(np.maximum(mel, spec.amin)) - ref_db
    scaled = np.clip(decibel / spec.top_db + 1.0, 0.0, 1.0)
    return LogMel(scaled, round(float(ref_db), 3))


def quantise(mel: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Returns the 8-bit codes of a log-mel in [0, 1]; the mean squared error is about 1.3e-6."""
    return np.rint(np.asarray(mel) * 255.0).astype(np.uint8)


def dequantise(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the log-mel in [0, 1] that 8-bit codes stand for."""
    return codes.astype(np.float32) / np.float32(255.0)
