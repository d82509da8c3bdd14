"""One step of training or validation, for every strategy and precision (needs TensorFlow).

Keras `fit` fails under MultiWorkerMirroredStrategy, so a step consists of `tf.function`, `strategy.run`,
all-reduced gradients and `optimizer.apply`. The noise is a function of (seed, step).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.position import Part
from tfpipe.features.log_mel_tf import to_mel
from tfpipe.model import measure, networks, pca, precision
from tfpipe.spec import FeatureSpec
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig
from tfpipe.training.learning_rate import cosine
from tfpipe.training.optimizer import make_adam, move_average


class Stepper:
    """A VAE in training: models, optimizer and the compiled steps.

    Attributes:
        models: the models that are trained.
        judged: the models that are validated, saved and exported: the moving average of `models` if the
            setting `average` is on, else `models` themselves.
        variables: the variables that the optimizer changes.
        optimizer: Adam. Under mixed_float16 it skips steps whose gradients are infinite.
        policy: the Keras dtype policy that the setting `precision` was resolved to.
        jit: whether XLA compiles the step.
        pixels: values in a window's log-mel.
        latent: dimensions of z.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: FeatureSpec,
        *,
        strategy: tf.distribute.Strategy,
        part: Part,
        total_steps: int,
        joined: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.config, self.strategy, self.part = config, strategy, part
        self.objective, self.pixels = config.chosen.objective, math.prod(spec.mel_shape)
        self.latent = config.latent_shape(spec).size
        self.policy = precision.resolve(config.precision)
        self.jit = precision.compiled(config.jit_compile, replicas=part.total)
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self.models = self.judged = self._build(spec)
            self.variables = [*self.models.encoder.trainable_variables, *self.models.decoder.trainable_variables]
            self.optimizer = self._make_optimizer(total_steps, joined)
            self.optimizer.build(self.variables)
            if config.average:
                self.judged = self._build(spec)
        # No step branches on a tensor's value. Without AutoGraph, which would rewrite such branches, tracing is faster.
        traced = functools.partial(tf.function, autograph=False)
        self._replica = traced(self._replica_step, jit_compile=True) if self.jit else self._replica_step
        self._train = traced(self._distributed_step, reduce_retracing=True)
        self._evaluate = traced(self._distributed_evaluation, reduce_retracing=True)

    def train(self, mel: Any, *, count: int, stop: bool, step: int) -> tf.Tensor:
        """Starts one step; the device may still be computing it when this returns.

        Args:
            mel: 8-bit codes `[batch, n_mels, frames, 1]`, one tensor per replica.
            count: examples in the global batch.
            stop: whether this process was asked to stop; the result tells all workers.
            step: number of the step in the run; the noise is a function of it.

        Returns:
            `[2 + latent]`: mse and KL per dimension, as means over the global batch before the step, and
            the number of processes that were asked to stop.
        """
        scalars = (tf.constant(float(count)), tf.constant(float(stop)), tf.constant(step, tf.int32))
        return self._train(mel, *scalars)

    def read(self, means: tf.Tensor) -> NDArray[np.float64]:
        """Waits for a step and returns its figures."""
        return np.asarray(means, np.float64)

    def evaluate(self, mel: Any, *, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Measures `judged` with z at the posterior mean.

        Args:
            mel: 8-bit codes `[batch, n_mels, frames, 1]`, one tensor per replica, all with the same number of rows.
            count: examples in the global batch; further rows are padding and are not counted.

        Returns:
            `[2 + latent]`: count, mse and KL per dimension, as sums over all replicas; and this process's
            z_mean `[rows, latent]`.
        """
        sums, z_mean = self._evaluate(mel, tf.constant(count))
        return sums, z_mean

    def loss(self, means: NDArray[np.float64]) -> float:
        """Returns the objective for mean mse and mean KL per dimension, `[1 + latent]`."""
        mse, kl = float(means[0]), float(means[1:].sum())
        return float(measure.objective(self.objective, mse, kl, pixels=self.pixels, latent=self.latent))

    def start(self, mels: NDArray[np.float32]) -> None:
        """Starts the linear path of the models from PCA of `mels` `[n, n_mels, frames]`."""
        pca.start_from_pca(self.models, mels)
        if self.judged is not self.models:
            for average, weight in zip(_weights(self.judged), _weights(self.models), strict=True):
                average.assign(weight)

    def start_from(self, arrays: Mapping[str, Any], *, where: str) -> None:
        """Starts from encoder and decoder of a checkpoint of the run folder `where`; see `checkpoint.assign`."""
        for models in (self.models, self.judged):
            for part in models:
                checkpoint.assign(part.weights, arrays, prefix=part.name, where=where)

    def parts(self) -> dict[str, list[Any]]:
        """Returns all variables by part. `encoder` and `decoder` are the parts that a user of the model needs."""
        parts = {
            "encoder": self.judged.encoder.weights,
            "decoder": self.judged.decoder.weights,
            "optimizer": self.optimizer.variables,
        }
        if self.judged is not self.models:
            parts |= {"trained_encoder": self.models.encoder.weights, "trained_decoder": self.models.decoder.weights}
        return parts

    def _distributed_step(self, mel: Any, count: tf.Tensor, stop: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        means = self.strategy.run(self._replica, args=(mel, count, stop, step))
        if self.judged is not self.models:
            decay = self.config.average
            move_average(self.strategy, _weights(self.judged), _weights(self.models), step=step, decay=decay)
        return self.strategy.experimental_local_results(means)[0]

    def _replica_step(self, mel: tf.Tensor, count: tf.Tensor, stop: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        mel = to_mel(mel)
        with tf.GradientTape() as tape:
            z_mean, z_log_var = self.models.encoder(mel, training=True)
            reconstruction = self.models.decoder(
                networks.sample(z_mean, z_log_var, self._noise(z_mean, step)), training=True
            )
            terms = measure.losses(mel, reconstruction, z_mean, z_log_var)
            mse, kl = tf.reduce_sum(terms.mse) / count, tf.reduce_sum(terms.kl, axis=0) / count
            means = context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.stop_gradient(tf.concat([mse[None], kl, stop[None]], 0))
            )
            kl_weight = 1.0 / (self.latent if self.objective == "notebook" else self.pixels)
            loss = mse * measure.gradient_weight(self.objective, means[0]) + tf.reduce_sum(kl) * kl_weight
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.variables)
        # Keras' optimizer clips the gradients of a replica and then sums them over the replicas. Given the mean over
        # all replicas, it clips the whole gradient, as a single worker does, and the sum of the means is the gradient.
        self.optimizer.apply(context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients), self.variables)
        return means

    def _noise(self, like: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns this replica's rows of the noise of the global batch, which is the same for any number of workers."""
        rows = tf.shape(like)[0]
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        shape = [rows * self.part.total, self.latent]
        noise = tf.random.stateless_normal(shape, seed=tf.stack([self.config.seed, step]))
        return noise[replica * rows : (replica + 1) * rows]

    def _distributed_evaluation(self, mel: Any, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sums, z_mean = self.strategy.run(self._replica_evaluation, args=(mel, count))
        local = self.strategy.experimental_local_results
        rows = tf.concat(local(z_mean), 0)
        return local(sums)[0], rows[: tf.maximum(0, count - self.part.worker * tf.shape(rows)[0])]

    def _replica_evaluation(self, mel: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mel = to_mel(mel)
        z_mean, z_log_var = self.judged.encoder(mel, training=False)
        terms = measure.losses(mel, self.judged.decoder(z_mean, training=False), z_mean, z_log_var)
        replica, rows = tf.distribute.get_replica_context(), tf.shape(mel)[0]
        counted = tf.cast(replica.replica_id_in_sync_group * rows + tf.range(rows) < count, tf.float32)
        kl = tf.reduce_sum(terms.kl * counted[:, tf.newaxis], axis=0)
        sums = tf.concat([[tf.reduce_sum(counted), tf.reduce_sum(terms.mse * counted)], kl], 0)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, sums), z_mean

    def _build(self, spec: FeatureSpec) -> networks.Models:
        return networks.build(self.config.preset, spec, latent=self.config.latent, policy=self.policy)

    def _make_optimizer(self, total_steps: int, joined: Sequence[tuple[int, int]]) -> Any:
        rate: Any = float(self.config.learning_rate or 0.0)
        clip = None
        if self.config.schedule == "cosine":
            rate = cosine(rate, total_steps=total_steps, joined=joined)
            clip = 1.0 / self.part.total  # the limit for a mean over replicas, see _replica_step
        return make_adam(rate, policy=self.policy, clip=clip)


def _weights(models: networks.Models) -> list[Any]:
    return [*models.encoder.weights, *models.decoder.weights]
