"""Log-mel features as TensorFlow ops.

`log_mel` agrees with `tfpipe.features.log_mel.log_mel` within 1e-3 on [0, 1] for any
audio, because both compute in float64. All functions can be part of a SavedModel.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfpipe.features.log_mel import mel_basis
from tfpipe.spec import FeatureSpec


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


def to_mel(codes: tf.Tensor) -> tf.Tensor:
    """Turns 8-bit codes into float32 log-mel in [0, 1].

    Call it on the device that trains: 8-bit codes are a quarter of the bytes to copy to it.
    """
    return tf.cast(codes, tf.float32) / 255.0


def _stft(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the centred STFT `[n, frames, bins]` with zero padding and a periodic Hann window, as librosa does."""
    half = spec.n_fft // 2
    padded = tf.pad(audio, [[0, 0], [half, half]])
    return tf.signal.stft(padded, spec.n_fft, spec.hop, fft_length=spec.n_fft, window_fn=_window)


def _window(length: int, dtype: tf.DType) -> tf.Tensor:
    return tf.signal.hann_window(length, periodic=True, dtype=dtype)


def _decibel(value: tf.Tensor) -> tf.Tensor:
    return 10.0 / math.log(10.0) * tf.math.log(value)
