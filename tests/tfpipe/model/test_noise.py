"""Seeded noise, against its definition."""

import numpy as np
import pytest

from tfpipe.model.noise import seeded_normal


def test_values_are_standard_normal_and_defined_by_splitmix64():
    import tensorflow as tf
    from scipy import stats

    z = seeded_normal(tf.range(4000, dtype=tf.int64), 16).numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(z.T) - np.eye(16)).max() < 0.08
    assert np.abs(np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]) < 0.02

    def mix(value):
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    state = (mix(7) + 3 * 0x9E3779B97F4A7C15) % 2**64
    assert z[7, 2] == pytest.approx(stats.norm.ppf(((mix(state) >> 11) + 0.5) / 2**53), rel=1e-6)
