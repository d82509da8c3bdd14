"""Adam and the moving average of weights, as both stages of training use them (needs TensorFlow)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def make_adam(rate: Any, *, policy: str, clip: float | None, beta_2: float = 0.999) -> Any:
    """Returns Adam; under mixed_float16 with loss scaling, so that it skips steps whose gradients are infinite.

    Args:
        rate: learning rate, or a schedule of it.
        policy: Keras dtype policy of the layers.
        clip: limit for the norm of the whole gradient; None is none.
        beta_2: decay of the mean of the squared gradients.
    """
    optimizer = keras.optimizers.Adam(rate, beta_2=beta_2, global_clipnorm=clip)
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
