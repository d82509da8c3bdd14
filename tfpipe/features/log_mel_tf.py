"""Log-mel features as TensorFlow ops.

`log_mel` agrees with `tfpipe.features.log_mel.log_mel` within 1e-3 on [0, 1] for any
audio, because both compute in float64. All functions can be part of a SavedModel.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfpipe.features.log_mel import mel_basis
from tfpipe.spec import FeatureSpec


def log_mel(audio: tf.Tensor, spec: FeatureSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the features of a batch of windows.

    Each row is computed alone: its arrays fit into the processor's cache, several rows run on several cores at a time,
    and a row has the same features in every batch.

    Args:
        audio: `[n, samples]` float, full scale 1.0.
        spec: the feature spec.

    Returns:
        mel `[n, n_mels, frames]` float32 in [0, 1] and ref_db `[n]` float32.
        A silent row has mel 0.0 and `spec.ref_db_floor`.
    """
    frames = None if audio.shape[1] is None else 1 + audio.shape[1] // spec.hop
    types = (tf.TensorSpec([spec.n_mels, frames], tf.float32), tf.TensorSpec([], tf.float32))
    mel, ref_db = tf.map_fn(lambda row: _log_mel_of_row(row, spec), audio, fn_output_signature=types)
    return mel, ref_db


def _log_mel_of_row(audio: tf.Tensor, spec: FeatureSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mel `[n_mels, frames]` and ref_db `[]` of one window `[samples]`."""
    audio = tf.cast(audio, tf.float64)
    mel = tf.maximum(_mel(audio, spec), spec.amin)
    ref_db = _decibel(tf.reduce_max(mel))
    scaled = tf.clip_by_value((_decibel(mel) - ref_db) / spec.top_db + 1.0, 0.0, 1.0)
    silent = tf.reduce_max(tf.abs(audio)) < spec.silence_peak
    scaled = tf.where(silent, tf.zeros_like(scaled), scaled)
    ref_db = tf.where(silent, tf.cast(spec.ref_db_floor, tf.float64), tf.round(ref_db * 1000.0) / 1000.0)
    return tf.cast(scaled, tf.float32), tf.cast(ref_db, tf.float32)


def _mel(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the mel bands `[n_mels, frames]` float64 of a window `[samples]` float64, not yet in dB.

    The filters are a sparse matrix, because 98 % of their entries are zero. Bins that no filter covers are left out.
    """
    filters = mel_basis(spec).tocoo()
    first, count = int(filters.col.min()), int(filters.col.max() - filters.col.min()) + 1
    stft = _stft(audio, spec)[:, first : first + count]
    # This is several times as fast as the magnitude of complex numbers, which guards against squares that overflow.
    spectrum = tf.square(tf.math.real(stft)) + tf.square(tf.math.imag(stft))
    if spec.power != 2.0:
        spectrum = tf.sqrt(spectrum) if spec.power == 1.0 else tf.pow(spectrum, spec.power / 2.0)
    order = np.lexsort((filters.col, filters.row))
    places = np.stack([filters.row, filters.col - first], axis=1)[order].astype(np.int64)
    sparse = tf.SparseTensor(places, filters.data[order], [spec.n_mels, count])
    return tf.sparse.sparse_dense_matmul(sparse, tf.transpose(spectrum))


def to_mel(codes: tf.Tensor) -> tf.Tensor:
    """Turns 8-bit codes into float32 log-mel in [0, 1].

    Call it on the device that trains: 8-bit codes are a quarter of the bytes to copy to it.
    """
    return tf.cast(codes, tf.float32) / 255.0


def _stft(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the centred STFT `[frames, bins]` with zero padding and a periodic Hann window, as librosa does."""
    half = spec.n_fft // 2
    padded = tf.pad(audio, [[half, half]])
    return tf.signal.stft(padded, spec.n_fft, spec.hop, fft_length=spec.n_fft, window_fn=_window)


def _window(length: int, dtype: tf.DType) -> tf.Tensor:
    return tf.signal.hann_window(length, periodic=True, dtype=dtype)


def _decibel(value: tf.Tensor) -> tf.Tensor:
    return 10.0 / math.log(10.0) * tf.math.log(value)
