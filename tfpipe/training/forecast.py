"""How long a training will take here, estimated before its first step (needs TensorFlow)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.data.manifest import Manifest
from tfpipe.model import networks, prior
from tfpipe.training.config import FLOW, TrainConfig
from tfpipe.training.prior_folder import prior_settings
from tfpipe.training.time_left import Forecast

# A step takes longer than its gradients, because it also reads a batch, augments it and updates the weights.
_STEP_SHARE = 1.15
# Validation computes no gradients, so it takes about a third of the time for each window.
_VALIDATION_SHARE = 0.35
# A CPU is timed with at most so many windows, because it needs as long for each window of a larger batch. A GPU does
# not, so it is timed with a whole batch.
_ROWS = 16
# The first call traces and the second one still prepares memory, so the third one is timed.
_CALLS = 3


def forecast(config: TrainConfig, manifest: Manifest, *, policy: str, replicas: int) -> Forecast:
    """Estimates how long a training will take: times one batch on this machine and multiplies by the number of batches.

    It builds networks of its own, of the same sizes, so it does not change those of the run.

    Args:
        config: settings of the run.
        manifest: the dataset.
        policy: Keras dtype policy of the layers.
        replicas: devices that share a batch.
    """
    batch, spec = int(config.batch_size or 1), manifest.spec
    models = networks.build(config.chosen, spec, latent=config.latent, policy=policy)
    mel = tf.fill([_rows(batch // replicas), *spec.mel_shape, 1], 0.5)
    variables = [*models.encoder.trainable_variables, *models.decoder.trainable_variables]
    one = _gradient_s(lambda: models.decoder(models.encoder(mel)[0]), variables) / len(mel) / replicas
    return Forecast(
        step_s=_STEP_SHARE * batch * one,
        validation_s=_VALIDATION_SHARE * manifest.examples("validation") * one,
        prior_s=_prior_s(config, manifest, policy=policy, replicas=replicas) if config.prior == FLOW else 0.0,
    )


def _prior_s(config: TrainConfig, manifest: Manifest, *, policy: str, replicas: int) -> float:
    """Returns the estimated time of all steps of the prior, s."""
    size, shape = config.prior_size(), config.latent_shape(manifest.spec)
    network = prior.build(size, shape, labels=len(manifest.labels), policy=policy)
    rows = _rows(size.batch_size // replicas)
    x, numbers, label = tf.zeros([rows, shape.steps, shape.channels]), tf.zeros([rows]), tf.zeros([rows], tf.int32)
    inputs = [x, x[..., 0], numbers, label, label]
    one = _gradient_s(lambda: network(inputs), network.trainable_variables) / rows / replicas
    return float(_STEP_SHARE * prior_settings(config, manifest)["steps"] * size.batch_size * one)


def _rows(share: int) -> int:
    """Returns the number of windows to time. `share` is the number of windows of a batch that one replica gets."""
    return max(1, share if tf.config.list_physical_devices("GPU") else min(share, _ROWS))


def _gradient_s(output: Callable[[], Any], variables: Sequence[Any]) -> float:
    """Returns how long outputs and gradients take in a traced graph, in s. Untraced they take several times as long.

    Args:
        output: calls the networks.
        variables: what the gradients are computed for.
    """

    def gradients() -> list[Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(output(), tf.float32)))
        return [gradient for gradient in tape.gradient(loss, list(variables)) if gradient is not None]

    traced, seconds = tf.function(gradients, autograph=False), 0.0
    for _ in range(_CALLS):
        began = time.perf_counter()
        np.asarray(traced()[0])  # waits for a GPU
        seconds = time.perf_counter() - began
    return seconds
