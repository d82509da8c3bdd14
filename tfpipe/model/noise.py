"""Seeded noise inside graphs: each row is a function of its own seed (needs TensorFlow)."""

from __future__ import annotations

import tensorflow as tf


def seeded_normal(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Draws `[n, count]` standard normal float32 values; row i depends on `seed[i]` alone.

    The generator is counter-based: splitmix64 (Steele, Lea and Flood, 2014) maps each pair of seed and position to 64
    bits, and the inverse normal distribution maps the 53 high bits to a value. Every operation is elementwise, so a
    row's values are the same in any batch.

    Args:
        seed: `[n]` int64.
        count: values in each row.
    """
    positions = tf.cast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64)
    state = _splitmix64(tf.bitcast(seed, tf.uint64))[:, tf.newaxis] + positions * _uint64(0x9E3779B97F4A7C15)
    bits = tf.bitwise.right_shift(_splitmix64(state), _uint64(11))
    uniform = (tf.cast(bits, tf.float64) + 0.5) * 2.0**-53
    return tf.cast(tf.math.ndtri(uniform), tf.float32)


def _splitmix64(value: tf.Tensor) -> tf.Tensor:
    value += _uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _uint64(shift))) * _uint64(factor)
    return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _uint64(31)))


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
