"""Mean squared error and KL divergence of windows, and the objectives made of them.

This is the only place that computes them. `squared_error` and `kl` take NumPy arrays; the other
functions take tensors and load TensorFlow when they are called, so that a client can measure without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import tensorflow as tf

# Keeps the likelihood of a perfect reconstruction finite.
_LEAST_MSE = 1e-12


class Losses(NamedTuple):
    """Measures of each example: `mse` `[n]` (mean over pixels) and `kl` `[n, latent]` (nats)."""

    mse: tf.Tensor
    kl: tf.Tensor


def squared_error(mel: ArrayLike, reconstruction: ArrayLike) -> NDArray[np.float64]:
    """Returns the mean squared error of each window, `[n]`, computed in float64.

    Args:
        mel: `[n, ...]`, such as `[n, n_mels, frames]`.
        reconstruction: of the same shape.
    """
    squares = np.square(np.subtract(mel, reconstruction), dtype=np.float64)
    return np.asarray(squares.mean(axis=tuple(range(1, squares.ndim))), np.float64)


def kl(z_mean: ArrayLike, z_log_var: ArrayLike) -> NDArray[np.float64]:
    """Returns the KL divergence of the posterior from the standard normal prior in nats, `[n, latent]`, in float64."""
    mean, log_var = np.asarray(z_mean, np.float64), np.asarray(z_log_var, np.float64)
    return np.asarray(0.5 * (np.square(mean) + np.exp(log_var) - 1.0 - log_var))


def losses(mel: tf.Tensor, reconstruction: tf.Tensor, z_mean: tf.Tensor, z_log_var: tf.Tensor) -> Losses:
    """Computes error and KL of each example inside a graph.

    Args:
        mel: `[n, n_mels, frames, 1]`.
        reconstruction: of the same shape.
        z_mean: mean of the posterior, `[n, latent]`.
        z_log_var: log variance of the posterior, `[n, latent]`.
    """
    import tensorflow as tf

    mse = tf.reduce_mean(tf.square(mel - reconstruction), axis=[1, 2, 3])
    divergence = 0.5 * (tf.square(z_mean) + tf.exp(z_log_var) - 1.0 - z_log_var)
    return Losses(mse, divergence)


def objective(name: str, mse: Any, kl: Any, *, pixels: int, latent: int) -> Any:
    """Returns the loss of a batch or an epoch, as a tensor if `mse` is one, else as a float.

    Args:
        name: `notebook`: mse plus the KL averaged over the dimensions. `gaussian`: the negative evidence
            lower bound per pixel, up to a constant, under a Gaussian likelihood whose variance is the
            mean squared error itself (Rybkin et al., 2021).
        mse: mean of the examples' mse.
        kl: mean of the examples' KL, summed over the dimensions (nats).
        pixels: values in a window's log-mel.
        latent: dimensions of z.
    """
    if name == "notebook":
        return mse + kl / latent
    if isinstance(mse, float | int):
        return 0.5 * math.log(max(mse, _LEAST_MSE)) + kl / pixels
    import tensorflow as tf

    return 0.5 * tf.math.log(tf.maximum(mse, _LEAST_MSE)) + kl / pixels


def gradient_weight(name: str, mse: tf.Tensor) -> tf.Tensor:
    """Returns the factor for each example's mse that makes their sum have the gradient of the objective.

    The gradient of 0.5 log(mse) equals that of mse / (2 mse) with the divisor held constant. A constant
    divisor lets the replicas of a distributed step sum their gradients without an error.

    Args:
        name: as in `objective`.
        mse: mean of the global batch.
    """
    import tensorflow as tf

    return tf.ones_like(mse) if name == "notebook" else tf.stop_gradient(0.5 / tf.maximum(mse, _LEAST_MSE))
