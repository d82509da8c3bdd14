"""One step of training the learned prior, for every strategy and precision (needs TensorFlow)."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.position import Part
from tfpipe.model import prior
from tfpipe.model.latent_shape import LatentShape
from tfpipe.model.presets import PriorSize
from tfpipe.training.learning_rate import cosine
from tfpipe.training.optimizer import make_adam, move_average

# Share of the windows of a batch whose first steps are given, as in `Prior.continue_`, and of those without a label.
_CONTINUED, _UNLABELLED = 0.5, 0.12
# The moving average of the weights, which is what draws come from.
_AVERAGE = 0.999


class PriorStepper:
    """A prior in training.

    Attributes:
        network: the network that is trained.
        average: a moving average of `network`: it is validated, saved and exported.
        optimizer: Adam. Under mixed_float16 it skips steps whose gradients are infinite.
        batch_size: windows in a global batch.
    """

    def __init__(
        self,
        size: PriorSize,
        shape: LatentShape,
        *,
        steps: int,
        labels: int,
        weights: NDArray[np.float32],
        seed: int,
        policy: str,
        jit: bool,
        strategy: tf.distribute.Strategy,
        part: Part,
    ) -> None:
        self.shape, self.labels, self.seed = shape, labels, seed
        self.strategy, self.part = strategy, part
        self.batch_size = max(1, size.batch_size // part.total) * part.total
        self._weights = tf.constant(weights / weights.mean(), tf.float32)
        keras.utils.set_random_seed(seed)
        with strategy.scope():
            self.network = prior.build(size, shape, labels=labels, policy=policy)
            self.average = prior.build(size, shape, labels=labels, policy=policy)
            rate = cosine(size.learning_rate, total_steps=steps)
            # The limit for a mean over replicas, see tfpipe.training.step.
            self.optimizer = make_adam(rate, policy=policy, clip=1.0 / part.total, beta_2=0.99)
            self.optimizer.build(self.network.trainable_variables)
        for old, new in zip(self.average.weights, self.network.weights, strict=True):
            old.assign(new)
        traced = functools.partial(tf.function, autograph=False)
        self._replica = traced(self._replica_step, jit_compile=True) if jit else self._replica_step
        self._train = traced(self._distributed_step, reduce_retracing=True)
        self._evaluate = traced(self._measure, reduce_retracing=True)

    def train(self, posteriors: NDArray[np.float32], about: NDArray[np.int32], *, stop: bool, step: int) -> tf.Tensor:
        """Starts one step; the device may still be computing it when this returns.

        Args:
            posteriors: of the global batch, `[batch, 2, latent]`: means and log variances.
            about: label, and 1 for a window as it was recorded, `[batch, 2]`.
            stop: whether this process was asked to stop; the result tells all workers.
            step: number of the step; the noise is a function of it.

        Returns:
            `[2]`: the loss before the step, and the number of processes that were asked to stop.
        """
        own = self.batch_size // self.part.total

        def rows(array: NDArray[Any]) -> Any:
            def part(context: Any) -> tf.Tensor:
                first = context.replica_id_in_sync_group * own
                return tf.constant(array[first : first + own])

            return self.strategy.experimental_distribute_values_from_function(part)

        return self._train(rows(posteriors), rows(about), tf.constant(float(stop)), tf.constant(step, tf.int32))

    def evaluate(self, posteriors: NDArray[np.float32], about: NDArray[np.int32]) -> float:
        """Returns the loss of `average` on windows, with the same times and noise in each call."""
        return float(self._evaluate(tf.constant(posteriors), tf.constant(about)))

    def parts(self) -> dict[str, list[Any]]:
        """Returns all variables by part. `prior` is the part that a user of the model needs."""
        return {
            "prior": self.average.weights,
            "trained_prior": self.network.weights,
            "optimizer": self.optimizer.variables,
        }

    def _distributed_step(self, posteriors: Any, about: Any, stop: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        means = self.strategy.run(self._replica, args=(posteriors, about, stop, step))
        move_average(self.strategy, self.average.weights, self.network.weights, step=step, decay=_AVERAGE)
        return self.strategy.experimental_local_results(means)[0]

    def _replica_step(self, posteriors: tf.Tensor, about: tf.Tensor, stop: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        seeds = tf.random.split(tf.stack([self.seed, step]), 5)
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        with tf.GradientTape() as tape:
            losses = self._losses(self.network, posteriors, about, seeds=seeds, replica=replica, training=True)
            loss = tf.reduce_sum(losses) / self.batch_size
            means = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(tf.stack([loss, stop])))
            # The gradient of the global batch is the sum over the replicas; see tfpipe.training.step.
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.network.trainable_variables)
        gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        return means

    def _losses(
        self,
        network: keras.Model,
        posteriors: tf.Tensor,
        about: tf.Tensor,
        *,
        seeds: tf.Tensor,
        replica: tf.Tensor,
        training: bool,
    ) -> tf.Tensor:
        """Returns the flow's loss of each window, `[n]`: the error of the velocity at a random time and noise."""
        rows = tf.shape(about)[0]
        everyone = rows * (self.part.total if training else 1)

        def own(values: tf.Tensor) -> tf.Tensor:
            # The numbers are those of the global batch, so that they are the same for any number of workers.
            return values[replica * rows : (replica + 1) * rows]

        def normal(index: int, *size: int) -> tf.Tensor:
            return own(tf.random.stateless_normal([everyone, *size], seeds[index]))

        steps, channels, kept = self.shape.steps, self.shape.channels, prior.kept_steps(self.shape)
        z = posteriors[:, 0] + tf.exp(0.5 * posteriors[:, 1]) * normal(0, self.shape.size)
        z = tf.reshape(z, [-1, steps, channels])
        noise = normal(1, steps, channels)
        time = tf.sigmoid(normal(2))
        chances = own(tf.random.stateless_uniform([everyone, 2], seeds[3]))
        label = tf.where(chances[:, 0] < _UNLABELLED, self.labels, about[:, 0])
        continued = tf.cast(chances[:, 1:] < _CONTINUED, tf.float32)
        flags = continued * tf.cast(tf.range(steps) < kept, tf.float32)
        known, at = flags[..., tf.newaxis], time[:, tf.newaxis, tf.newaxis]
        x = known * z + (1.0 - known) * ((1.0 - at) * noise + at * z)
        velocity = network([x, flags, time, label, about[:, 1]], training=training)
        # Times `spread`, it is the error of the network's own output, which is equally hard at all times.
        squares = prior.spread(at) * tf.square(velocity - (z - noise)) * self._weights * (1.0 - known)
        return tf.reduce_sum(squares, [1, 2]) / (channels * tf.reduce_sum(1.0 - flags, 1))

    def _measure(self, posteriors: tf.Tensor, about: tf.Tensor) -> tf.Tensor:
        seeds = tf.random.split(tf.constant([0, 0]), 5)
        losses = self._losses(self.average, posteriors, about, seeds=seeds, replica=tf.constant(0), training=False)
        return tf.reduce_mean(losses)
