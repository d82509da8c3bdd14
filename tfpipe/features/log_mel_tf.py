"""Log-mel features and their inversion (Griffin-Lim) as TensorFlow ops.

`log_mel` agrees with `tfpipe.features.log_mel.log_mel` within 1e-3 on [0, 1] for any
audio, because both compute in float64. All functions can be part of a SavedModel.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.features.log_mel import mel_basis
from tfpipe.spec import FeatureSpec

# Steps of the multiplicative update that estimates the STFT magnitude from the mel bands.
_INVERSION_STEPS = 12
# Momentum of fast Griffin-Lim (Perraudin, Balazs and Sondergaard, 2013).
_MOMENTUM = 0.99


def log_mel(audio: tf.Tensor, spec: FeatureSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the features of a batch of windows.

    Args:
        audio: `[n, samples]` float, full scale 1.0.
        spec: the feature spec.

    Returns:
        mel `[n, n_mels, frames]` float32 in [0, 1] and ref_db `[n]` float32.
        A silent row has mel 0.0 and `spec.ref_db_floor`.
    """
    audio = tf.cast(audio, tf.float64)
    spectrum = tf.abs(_stft(audio, spec))
    if spec.power != 1.0:
        spectrum **= spec.power
    basis = tf.constant(mel_basis(spec).toarray().T, tf.float64)
    mel = tf.transpose(tf.tensordot(spectrum, basis, 1), [0, 2, 1])
    peak = tf.maximum(tf.reduce_max(mel, axis=[1, 2]), spec.amin)
    ref_db = _decibel(peak)
    scaled = (_decibel(tf.maximum(mel, spec.amin)) - ref_db[:, None, None]) / spec.top_db + 1.0
    silent = tf.reduce_max(tf.abs(audio), axis=1) < spec.silence_peak
    scaled = tf.where(silent[:, None, None], tf.zeros_like(scaled), tf.clip_by_value(scaled, 0.0, 1.0))
    ref_db = tf.where(silent, tf.cast(spec.ref_db_floor, tf.float64), tf.round(ref_db * 1000.0) / 1000.0)
    return tf.cast(scaled, tf.float32), tf.cast(ref_db, tf.float32)


def griffin_lim(mel: tf.Tensor, ref_db: tf.Tensor, spec: FeatureSpec, *, iterations: int = 32) -> tf.Tensor:
    """Inverts log-mel windows to audio.

    The STFT magnitudes are estimated from the mel bands by non-negative least
    squares, and the phases by fast Griffin-Lim. Each row starts from the same
    phases, so that a row's audio does not depend on the other rows.

    Args:
        mel: `[n, n_mels, frames]` in [0, 1].
        ref_db: `[n]`, level of each window's maximum, dB.
        spec: the feature spec.
        iterations: Griffin-Lim iterations.

    Returns:
        audio `[n, samples]` float32.
    """
    target = tf.cast(_stft_magnitude(mel, ref_db, spec), tf.complex64)
    angles = tf.random.stateless_uniform([1, spec.frames, spec.bins], seed=[0, 0], maxval=2.0 * math.pi)
    phase = tf.exp(tf.complex(tf.zeros_like(angles), angles)) * tf.ones_like(target)
    previous = tf.zeros_like(target)
    for _ in tf.range(iterations):
        rebuilt = _stft(_inverse_stft(target * phase, spec), spec)
        step = rebuilt - tf.cast(_MOMENTUM / (1.0 + _MOMENTUM), tf.complex64) * previous
        phase = step / tf.cast(tf.maximum(tf.abs(step), 1e-16), tf.complex64)
        previous = rebuilt
    return _inverse_stft(target * phase, spec)


def to_mel(codes: tf.Tensor) -> tf.Tensor:
    """Turns 8-bit codes into float32 log-mel in [0, 1].

    Call it on the device that trains: 8-bit codes are a quarter of the bytes to copy to it.
    """
    return tf.cast(codes, tf.float32) / 255.0


def _stft_magnitude(mel: tf.Tensor, ref_db: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Estimates an STFT magnitude `[n, frames, bins]` whose mel bands fit the log-mel.

    Multiplicative updates (Lee and Seung, 2001) keep it non-negative and need two
    matrix products per step. Silence stays silent.
    """
    decibel = (tf.cast(mel, tf.float32) - 1.0) * spec.top_db + tf.cast(ref_db, tf.float32)[:, None, None]
    # A mel of 0 means top_db or more below the maximum. The true level is unknown, so it is taken as no sound.
    wanted = tf.where(mel > 0.0, tf.pow(10.0, decibel / 10.0), 0.0)
    wanted = tf.transpose(wanted, [0, 2, 1])
    dense = mel_basis(spec).toarray().astype(np.float32)
    basis, transposed = tf.constant(dense), tf.constant(np.ascontiguousarray(dense.T))
    back = tf.tensordot(wanted, basis, 1)
    coverage = np.maximum(dense.sum(axis=0), 1e-8) * dense.sum(axis=1).mean()
    estimate = back / tf.constant(coverage.astype(np.float32))
    for _ in tf.range(_INVERSION_STEPS):
        estimate *= back / (tf.tensordot(tf.tensordot(estimate, transposed, 1), basis, 1) + 1e-12)
    return estimate if spec.power == 1.0 else tf.sqrt(estimate)


def _stft(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the centred STFT `[n, frames, bins]` with zero padding and a periodic Hann window, as librosa does."""
    half = spec.n_fft // 2
    padded = tf.pad(audio, [[0, 0], [half, half]])
    return tf.signal.stft(padded, spec.n_fft, spec.hop, fft_length=spec.n_fft, window_fn=_window)


def _inverse_stft(stft: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the audio `[n, spec.samples]` of an STFT: overlap-add, divided by the sum of the squared windows.

    `tf.signal.inverse_stft` returns only whole hops, which are fewer samples than a window has.
    """
    window = _window(spec.n_fft, tf.float32)
    frames = tf.signal.irfft(stft, [spec.n_fft]) * window
    signal = tf.signal.overlap_and_add(frames, spec.hop)
    overlap = _window_overlap(spec)
    signal /= tf.constant(overlap)
    start = spec.n_fft // 2
    missing = max(0, start + spec.samples - overlap.size)
    return tf.pad(signal, [[0, 0], [0, missing]])[:, start : start + spec.samples]


@functools.lru_cache(maxsize=16)
def _window_overlap(spec: FeatureSpec) -> NDArray[np.float32]:
    """Returns the sum of the squared windows of all frames, `[(frames - 1) * hop + n_fft]`."""
    overlap = np.zeros((spec.frames - 1) * spec.hop + spec.n_fft)
    hann_squared = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(spec.n_fft) / spec.n_fft)) ** 2
    for frame in range(spec.frames):
        overlap[frame * spec.hop : frame * spec.hop + spec.n_fft] += hann_squared
    shared = np.maximum(overlap, 1e-8).astype(np.float32)
    shared.setflags(write=False)
    return shared


def _window(length: int, dtype: tf.DType) -> tf.Tensor:
    return tf.signal.hann_window(length, periodic=True, dtype=dtype)


def _decibel(value: tf.Tensor) -> tf.Tensor:
    return 10.0 / math.log(10.0) * tf.math.log(value)
