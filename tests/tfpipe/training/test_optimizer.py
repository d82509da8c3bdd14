"""The optimizer of both stages of training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfpipe.training.optimizer import make_adam


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_fused_update_is_that_of_adam(policy: str) -> None:
    rng = np.random.default_rng(0)
    start, sizes = rng.standard_normal((3, 4)), np.logspace(-6, 2, 5)
    gradients = [size * rng.standard_normal((3, 4)) for size in sizes]

    def trained(optimizer: keras.optimizers.Optimizer) -> np.ndarray:
        weight = keras.Variable(start, dtype="float32")
        optimizer.build([weight])
        step = tf.function(lambda gradient: optimizer.apply([optimizer.scale_loss(gradient)], [weight]))
        for gradient in gradients:
            step(tf.constant(gradient, tf.float32))
        return np.asarray(weight.value)

    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    expected = trained(keras.optimizers.Adam(rate, beta_2=0.9, global_clipnorm=1.0))
    changed = trained(make_adam(rate, policy=policy, clip=1.0, beta_2=0.9))
    np.testing.assert_allclose(changed, expected, rtol=1e-5)
    assert np.abs(changed - start).max() > 0.1
