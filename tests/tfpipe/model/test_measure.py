"""Mean squared error, KL and the objectives: textbook values, and NumPy and TensorFlow agree."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.model import measure


def test_known_values() -> None:
    assert measure.squared_error(np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.5)) == pytest.approx([0.25])
    expected = [[0.5, 0.5 * (4 - 1 - np.log(4))]]
    np.testing.assert_allclose(measure.kl([[1.0, 0.0]], [[0.0, np.log(4.0)]]), expected)


def test_numpy_and_tensorflow_agree() -> None:
    rng = np.random.default_rng(0)
    mel, rebuilt = rng.uniform(size=(2, 3, 16, 8, 1)).astype(np.float32)
    z_mean, z_log_var = rng.standard_normal((2, 3, 5)).astype(np.float32)
    terms = measure.losses(*(tf.constant(values) for values in (mel, rebuilt, z_mean, z_log_var)))
    np.testing.assert_allclose(terms.mse, measure.squared_error(mel, rebuilt), rtol=1e-5)
    np.testing.assert_allclose(terms.kl, measure.kl(z_mean, z_log_var), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "factor"), [("notebook", 1.0), ("gaussian", 0.5 / 0.02)])
def test_gradient_weight_is_the_objectives_derivative(name: str, factor: float) -> None:
    mse = tf.Variable(0.02)
    with tf.GradientTape() as tape:
        loss = measure.objective(name, mse.read_value(), tf.constant(3.0), pixels=100, latent=4)
    assert float(tape.gradient(loss, mse)) == pytest.approx(factor, rel=1e-4)
    assert float(measure.gradient_weight(name, mse.read_value())) == pytest.approx(factor, rel=1e-4)


def test_objectives_of_plain_numbers() -> None:
    assert measure.objective("notebook", 0.5, 8.0, pixels=100, latent=4) == pytest.approx(2.5)
    assert measure.objective("gaussian", 0.5, 8.0, pixels=100, latent=4) == pytest.approx(0.5 * np.log(0.5) + 0.08)
    assert np.isfinite(measure.objective("gaussian", 0.0, 0.0, pixels=100, latent=4))
