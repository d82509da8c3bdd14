"""The learned prior: a rectified flow over the latent sequence, conditional on the label (needs TensorFlow).

A flow turns noise into a latent along straight lines (Liu et al., 2023, "Flow Straight and Fast"). At time t from 0 to
1 a point of a line is `(1 - t) * noise + t * z`, and the network predicts its velocity, `z - noise`. To draw, the
network's velocity is followed from noise at t = 0 to t = 1 in a few steps.

The first steps of a sequence can be given: then the flow makes the others so that they fit. That is how one window
continues another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tfpipe.model.latent_shape import LatentShape
from tfpipe.model.presets import PriorSize

# Steps from noise to latent. Each calls the network with and without the label, so that a draw has twice as many calls.
DRAW_STEPS = 25
# How far a draw is moved from what is likely for any label towards what is likely for the label that was asked for.
GUIDANCE = 1.5
# Steps that a filter sees, and the number of dilations (1, 2, 4) that the blocks take in turn.
_KERNEL, _DILATIONS = 5, 3


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A trained flow, and how latents are drawn from it inside a graph.

    In every method `label` is `[n]` int32; -1, and any number that is not a label's, means any label. Rows do not
    depend on each other.

    Attributes:
        network: from `build`.
        shape: of the latent.
        labels: number of labels.
        original: whether the corpus has windows that are neither shifted nor stacked. Draws are then like these.
    """

    network: keras.Model
    shape: LatentShape
    labels: int
    original: bool

    @property
    def kept(self) -> int:
        """Steps that a window takes over from the window that it continues."""
        return kept_steps(self.shape)

    def draw(self, noise: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """Returns latents `[n, steps * channels]` for normal noise of that shape."""
        given = self._sequence(tf.zeros_like(noise))
        none = tf.zeros([self.shape.steps])
        return self._flow(self._sequence(noise), tf.zeros_like(noise[:, 0]), label, given=given, flags=none)

    def continue_(self, z: tf.Tensor, noise: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """Returns the windows that continue the windows `z`.

        The first `kept` steps of a result are the last `kept` steps of its row of `z`; the others are new.
        """
        before, new = self._sequence(z)[:, -self.kept :], self.shape.steps - self.kept
        given = tf.pad(before, [[0, 0], [0, new], [0, 0]])
        flags = tf.concat([tf.ones([self.kept]), tf.zeros([new])], 0)
        return self._flow(self._sequence(noise), tf.zeros_like(noise[:, 0]), label, given=given, flags=flags)

    def vary(self, z: tf.Tensor, noise: tf.Tensor, amount: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """Moves `z` part of the way to noise and back.

        Args:
            z: latents.
            noise: normal noise of the same shape.
            amount: `[n]` from 0 (`z` itself) to 1 (a new draw).
            label: see the class.
        """
        start = 1.0 - tf.clip_by_value(amount, 0.0, 1.0)
        mixed = start[:, tf.newaxis] * z + (1.0 - start)[:, tf.newaxis] * noise
        given, none = self._sequence(tf.zeros_like(z)), tf.zeros([self.shape.steps])
        return self._flow(self._sequence(mixed), start, label, given=given, flags=none)

    @cached_property
    def _flow(self) -> Any:
        """`_follow` as a tf.function. It is traced once, even if many graphs call it."""
        sequence = tf.TensorSpec([None, self.shape.steps, self.shape.channels])
        types = [sequence, tf.TensorSpec([None]), tf.TensorSpec([None], tf.int32), sequence]
        types.append(tf.TensorSpec([self.shape.steps]))
        return tf.function(self._follow, input_signature=types, autograph=False)

    def _follow(
        self, x: tf.Tensor, start: tf.Tensor, label: tf.Tensor, given: tf.Tensor, flags: tf.Tensor
    ) -> tf.Tensor:
        """Follows the velocity from `x` `[n, steps, channels]` at the times `start` `[n]` to time 1.

        `flags` `[steps]` is 1 where a step of `given` is taken as it is.
        """
        rows = tf.shape(x)[0]
        known = flags[tf.newaxis, :, tf.newaxis]
        both = tf.concat([known_label(label, self.labels), tf.fill([rows], self.labels)], 0)
        flagged = tf.tile(flags[tf.newaxis], [2 * rows, 1])
        original = tf.fill([2 * rows], int(self.original))
        length = (1.0 - start) / DRAW_STEPS

        def step(index: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            time = start + length * tf.cast(index, tf.float32)
            x = known * given + (1.0 - known) * x
            inputs = [tf.tile(x, [2, 1, 1]), flagged, tf.tile(time, [2]), both, original]
            velocity = self.network(inputs, training=False)
            with_label, without = velocity[:rows], velocity[rows:]
            velocity = without + GUIDANCE * (with_label - without)
            return index + 1, x + length[:, tf.newaxis, tf.newaxis] * velocity

        _, x = tf.while_loop(
            lambda index, _: index < DRAW_STEPS,
            step,
            (tf.constant(0), x),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, self.shape.steps, self.shape.channels])),
        )
        return tf.reshape(known * given + (1.0 - known) * x, [-1, self.shape.size])

    def _sequence(self, z: tf.Tensor) -> tf.Tensor:
        return tf.reshape(z, [-1, self.shape.steps, self.shape.channels])


def kept_steps(shape: LatentShape) -> int:
    """Returns the steps that a window takes over from the window that it continues: just under half of them."""
    return shape.steps // 2


def known_label(label: tf.Tensor, labels: int) -> tf.Tensor:
    """Returns `label` `[n]` int32; a number that is not a label's becomes `labels`, which stands for any label."""
    return tf.where((label >= 0) & (label < labels), label, labels)


def build(size: PriorSize, shape: LatentShape, *, labels: int, policy: str = "float32") -> keras.Model:
    """Builds the network with fresh weights.

    It has filters along time. Time and condition scale and shift the input of each block, by vectors that the blocks
    share up to an offset of their own (Chen et al., 2024, "PixArt-alpha"). Before training it predicts the best linear
    guess of the velocity, see `Velocity`.

    Args:
        size: width and depth.
        shape: of the latent.
        labels: number of labels.
        policy: Keras dtype policy of the layers.

    Returns:
        The model of x `[n, steps, channels]`, flags `[n, steps]` (1 where the step is given), time `[n]`, label `[n]`
        int32 (`labels` is any) and original `[n]` int32 (0 for a window that the job has shifted or stacked, else 1)
        -> velocity `[n, steps, channels]` float32.
    """
    width = size.width
    x = keras.Input((shape.steps, shape.channels), name="x")
    flags = keras.Input((shape.steps,), name="flags")
    time = keras.Input((), name="time")
    label = keras.Input((), dtype="int32", name="label")
    original = keras.Input((), dtype="int32", name="original")
    condition = _condition(time, label, original, width=width, labels=labels)
    shared = layers.Dense(3 * width, kernel_initializer="zeros", dtype=policy, name="shared")(condition)
    last = layers.Dense(2 * width, kernel_initializer="zeros", dtype=policy, name="last")(condition)
    tokens = layers.Concatenate(dtype="float32")([x, layers.Reshape((shape.steps, 1), dtype="float32")(flags)])
    tokens = Positions(dtype=policy, name="positions")(layers.Dense(width, dtype=policy, name="tokens")(tokens))
    for index in range(size.depth):
        tokens = _block(tokens, shared, index=index, size=size, policy=policy)
    tokens = Modulate(dtype=policy)([_normal(tokens, policy), Vectors(2, dtype=policy, name="vectors")(last)])
    output = layers.Dense(shape.channels, kernel_initializer="zeros", dtype="float32", name="output")(tokens)
    velocity = Velocity(dtype="float32", name="velocity")([output, x, time])
    return keras.Model([x, flags, time, label, original], velocity, name="prior")


def spread(time: tf.Tensor) -> tf.Tensor:
    """Returns the variance of a point of a line at `time`, if latents have mean 0 and variance 1, as noise has."""
    return tf.square(time) + tf.square(1.0 - time)


@keras.saving.register_keras_serializable(package="tfpipe")
class Velocity(layers.Layer):
    """Makes the velocity of the network's output F: `(2t - 1) / s * x + F / sqrt(s)`, where s is `spread(t)`.

    The first term is the best linear guess of the velocity from x. F has variance 1 at every time, so that the network
    need not learn the scales (Karras et al., 2022, "Elucidating the Design Space", section 5).
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Returns the velocity for F `[n, steps, channels]`, x of this shape and time `[n]`."""
        output, x, time = inputs
        time = time[:, tf.newaxis, tf.newaxis]
        return (2.0 * time - 1.0) / spread(time) * x + output * tf.math.rsqrt(spread(time))


@keras.saving.register_keras_serializable(package="tfpipe")
class Frequencies(layers.Layer):
    """Times `[n]` in [0, 1] as sines and cosines of many frequencies, `[n, 64]`."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the features."""
        angles = inputs[:, tf.newaxis] * tf.exp(tf.linspace(0.0, tf.math.log(200.0), 32))
        return tf.concat([tf.sin(angles), tf.cos(angles)], -1)


@keras.saving.register_keras_serializable(package="tfpipe")
class Positions(layers.Layer):
    """Adds a trained vector to each step of `[n, steps, width]`."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the `[steps, width]` weight."""
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        self.vectors = self.add_weight(name="vectors", shape=input_shape[1:], initializer=initializer)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the input with the vectors added."""
        return inputs + tf.cast(self.vectors, inputs.dtype)


@keras.saving.register_keras_serializable(package="tfpipe")
class Vectors(layers.Layer):
    """Cuts `[n, count * width]` into vectors `[n, count, width]` and adds a trained offset to each."""

    def __init__(self, count: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.count = count

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the `[count, width]` weight."""
        shape = (self.count, (input_shape[-1] or 0) // self.count)
        self.offsets = self.add_weight(name="offsets", shape=shape, initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the vectors."""
        vectors = tf.reshape(inputs, [-1, *self.offsets.shape])
        return vectors + tf.cast(self.offsets, inputs.dtype)


@keras.saving.register_keras_serializable(package="tfpipe")
class Modulate(layers.Layer):
    """Scales and shifts each step of `[n, steps, width]` by the first two of the vectors `[n, count, width]`."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Returns `x * (1 + scale) + shift` for x and the vectors."""
        x, vectors = inputs
        return x * (1.0 + vectors[:, 0, tf.newaxis]) + vectors[:, 1, tf.newaxis]


@keras.saving.register_keras_serializable(package="tfpipe")
class Gate(layers.Layer):
    """Adds a branch to `[n, steps, width]`, scaled by the third of the vectors `[n, count, width]`."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Returns `x + (1 + gate) * branch` for x, branch and the vectors."""
        x, branch, vectors = inputs
        return x + (1.0 + vectors[:, 2, tf.newaxis]) * branch


def _condition(time: Any, label: Any, original: Any, *, width: int, labels: int) -> Any:
    """Returns what the modulation depends on, `[n, width]`."""
    features = Frequencies(dtype="float32", name="frequencies")(time)
    features = layers.Dense(width, activation="silu", dtype="float32", name="time_0")(features)
    terms = [
        layers.Dense(width, dtype="float32", name="time_1")(features),
        layers.Embedding(labels + 1, width, dtype="float32", name="label_embedding")(label),
        # Most of the training windows are shifted, but draws must not sound shifted. So the network is told which
        # windows are (Karras et al., 2022, section 5, do the same with augmentations).
        layers.Embedding(2, width, dtype="float32", name="original_embedding")(original),
    ]
    return layers.Activation("silu", dtype="float32")(layers.Add(dtype="float32")(terms))


def _block(x: Any, shared: Any, *, index: int, size: PriorSize, policy: str) -> Any:
    """Adds a filter along time for each channel, then two dense layers, beside the identity; at first they add zero.

    Source: ConvNeXt (Liu et al., 2022), along time alone, with a wider view in some blocks.
    """
    name = f"block_{index}"
    vectors = Vectors(3, dtype=policy, name=f"{name}_vectors")(shared)
    y = Modulate(dtype=policy)([_normal(x, policy), vectors])
    y = layers.DepthwiseConv1D(
        _KERNEL, padding="same", dilation_rate=2 ** (index % _DILATIONS), dtype=policy, name=f"{name}_filters"
    )(y)
    y = layers.LayerNormalization(dtype=policy, name=f"{name}_normal")(y)
    y = layers.Dense(4 * size.width, activation="silu", dtype=policy, name=f"{name}_wide")(y)
    y = layers.Dense(size.width, kernel_initializer="zeros", dtype=policy, name=f"{name}_narrow")(y)
    return Gate(dtype=policy)([x, y, vectors])


def _normal(x: Any, policy: str) -> Any:
    return layers.LayerNormalization(center=False, scale=False, epsilon=1e-5, dtype=policy)(x)
