"""Adam and the moving average of weights, as both stages of training use them (needs TensorFlow)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam, but with one TensorFlow op for each variable instead of about a dozen.

    The formula is the same. The op reads and writes each weight and each mean only once, and tracing a step is faster.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Changes one variable and its means of the gradient and the squared gradient."""
        index, dtype = self._get_variable_index(variable), variable.dtype
        done = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, dtype), done),
            beta2_power=tf.pow(tf.constant(self.beta_2, dtype), done),
            lr=tf.cast(learning_rate, dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, dtype),
        )


def make_adam(rate: Any, *, policy: str, clip: float | None, beta_2: float = 0.999) -> Any:
    """Returns Adam; under mixed_float16 with loss scaling, so that it skips steps whose gradients are infinite.

    Args:
        rate: learning rate, or a schedule of it.
        policy: Keras dtype policy of the layers.
        clip: limit for the norm of the whole gradient; None is none.
        beta_2: decay of the mean of the squared gradients.
    """
    optimizer = FusedAdam(rate, beta_2=beta_2, global_clipnorm=clip)
    return keras.optimizers.LossScaleOptimizer(optimizer) if policy == "mixed_float16" else optimizer


def move_average(
    strategy: tf.distribute.Strategy, averages: Sequence[Any], weights: Sequence[Any], *, step: tf.Tensor, decay: float
) -> None:
    """Moves averages towards the weights; in the first steps by larger shares than `1 - decay`."""
    done = tf.cast(step, tf.float32)
    share = 1.0 - tf.minimum(decay, (1.0 + done) / (10.0 + done))
    for average, weight in zip(averages, weights, strict=True):
        strategy.extended.update(
            average.value, lambda old, new: old.assign_add(share * (new - old)), args=(weight.value,)
        )
