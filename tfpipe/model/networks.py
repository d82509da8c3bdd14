"""The convolutional VAE: encoder and decoder of each preset (needs TensorFlow).

Encoder: mel `[n, n_mels, frames, 1]` -> z_mean, z_log_var `[n, latent]`.
Decoder: z `[n, latent]` -> mel `[n, n_mels, frames, 1]` in [0, 1].
Latents and outputs are float32 under every precision policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf
from keras import layers

from tfpipe.errors import SpecError
from tfpipe.model import sequence
from tfpipe.model.latent_shape import latent_shape
from tfpipe.model.presets import Preset, preset
from tfpipe.spec import FeatureSpec


class Network(Protocol):
    """The convolutions of a preset."""

    @property
    def strides(self) -> tuple[int, int]:
        """Products of the strides along bands and frames."""

    def encode(self, mel: Any, policy: str) -> Any:
        """Adds the layers between the padded input `[n, height, width, 1]` and the flattening."""

    def decode(self, z: Any, size: tuple[int, int], policy: str) -> Any:
        """Turns `z` into logits `[n, height, width, 1]`, where `size` is height and width over the strides."""


class Models(NamedTuple):
    """Encoder and decoder of one VAE."""

    encoder: keras.Model
    decoder: keras.Model


def build(
    chosen: str | Preset, spec: FeatureSpec, *, latent: int | str | None = None, policy: str = "float32"
) -> Models:
    """Builds encoder and decoder with fresh weights.

    Args:
        chosen: a preset or its name.
        spec: gives the input size.
        latent: dimensions of z, such as 16 or `27x64`; None is the preset's own size.
        policy: Keras dtype policy of the layers.

    Raises:
        UsageError: unknown preset or latent size out of range.
        SpecError: the preset cannot take the spec's size; the message names sizes that fit.
    """
    if isinstance(chosen, str):
        chosen = preset(chosen)
    shape = latent_shape(chosen, latent, spec)
    if chosen.network == "sequence":
        return Models(
            sequence.encoder(chosen, spec, shape=shape, policy=policy),
            sequence.decoder(chosen, spec, shape=shape, policy=policy),
        )
    parts = _Builder(chosen, spec, latent=shape.size, policy=policy)
    return Models(parts.encoder(), parts.decoder())


def sample(z_mean: tf.Tensor, z_log_var: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Moves standard normal `noise` `[n, latent]` into the posterior (the reparameterisation trick)."""
    return z_mean + tf.exp(0.5 * z_log_var) * noise


@keras.saving.register_keras_serializable(package="tfpipe")
class BandBias(layers.Layer):
    """Adds a trained offset per mel band to `[n, n_mels, frames, 1]`."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the `[1, n_mels, 1, 1]` weight."""
        self.bias = self.add_weight(name="bias", shape=(1, input_shape[1], 1, 1), initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the shifted input."""
        return inputs + tf.cast(self.bias, inputs.dtype)


class _Builder:
    """Builds the two models of a preset with one vector for a window, around its convolutions."""

    def __init__(self, chosen: Preset, spec: FeatureSpec, *, latent: int, policy: str) -> None:
        self.linear, self.spec, self.latent, self.policy = chosen.linear, spec, latent, policy
        self.network = _NETWORKS[chosen.network](chosen.width)
        self.size = _padded(spec, chosen, self.network.strides)
        self.padding = ((0, self.size[0] - spec.n_mels), (0, self.size[1] - spec.frames))

    def encoder(self) -> keras.Model:
        mel = keras.Input((*self.spec.mel_shape, 1), name="mel")
        fits = self.size == self.spec.mel_shape
        padded = mel if fits else layers.ZeroPadding2D(self.padding, dtype=self.policy)(mel)
        hidden = layers.Flatten(dtype=self.policy)(self.network.encode(padded, self.policy))
        # Beside a linear path the convolutions start at zero and learn what the linear path leaves.
        zeros: dict[str, Any] = {"kernel_initializer": "zeros"} if self.linear else {}
        narrow: dict[str, Any] = {"bias_initializer": keras.initializers.Constant(-4.0)} if self.linear else {}
        z_mean = layers.Dense(self.latent, dtype="float32", name="z_mean", **zeros)(hidden)
        z_log_var = layers.Dense(self.latent, dtype="float32", name="z_log_var", **zeros, **narrow)(hidden)
        if self.linear:
            # Not trained: with 27 648 inputs, one step of the optimizer would move z too far.
            project = layers.Dense(self.latent, use_bias=False, dtype="float32", trainable=False, name="linear")
            straight = project(layers.Flatten(dtype="float32")(mel))
            z_mean = layers.Add(dtype="float32")([z_mean, straight])
        return keras.Model(mel, [z_mean, z_log_var], name="encoder")

    def decoder(self) -> keras.Model:
        spec, policy, strides = self.spec, self.policy, self.network.strides
        z = keras.Input((self.latent,), name="z")
        logits = self.network.decode(z, (self.size[0] // strides[0], self.size[1] // strides[1]), policy)
        if self.size != spec.mel_shape:
            logits = layers.Cropping2D(self.padding, dtype=policy)(logits)
        if self.linear:
            straight = layers.Dense(spec.n_mels * spec.frames, use_bias=False, dtype=policy, name="linear")(z)
            straight = layers.Reshape((*spec.mel_shape, 1), dtype=policy)(straight)
            logits = BandBias(dtype="float32", name="band_bias")(layers.Add(dtype="float32")([logits, straight]))
        # In half precision the sigmoid saturates, and a third of the gradients become zero.
        return keras.Model(z, layers.Activation("sigmoid", dtype="float32", name="output_mel")(logits), name="decoder")


def _padded(spec: FeatureSpec, chosen: Preset, strides: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width that the strides divide."""
    height, width = (math.ceil(n / stride) * stride for n, stride in zip(spec.mel_shape, strides, strict=True))
    if not chosen.pads and (height, width) != spec.mel_shape:
        raise SpecError(
            f"preset {chosen.name!r} cannot take spectrograms of {spec.n_mels}x{spec.frames}; "
            f"use n_mels={height} and {width} frames (window_s={width * spec.hop / spec.sample_rate:.3f} "
            "with this hop), or preset sequence or compact, which pad"
        )
    return height, width


class _Notebook:
    """The notebook's convolutions over bands and frames."""

    strides = (8, 8)

    def __init__(self, width: int) -> None:
        self.filters = ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2))

    def encode(self, mel: Any, policy: str) -> Any:
        x = mel
        for filters, stride in self.filters:
            x = layers.Conv2D(filters, 3, strides=stride, padding="same", activation="relu", dtype=policy)(x)
        return x

    def decode(self, z: Any, size: tuple[int, int], policy: str) -> Any:
        narrowest = self.filters[-1][0]
        x = layers.Dense(size[0] * size[1] * narrowest, dtype=policy)(z)
        x = layers.Reshape((*size, narrowest), dtype=policy)(x)
        for filters, stride in reversed(self.filters):
            x = layers.Conv2DTranspose(filters, 3, strides=stride, padding="same", activation="relu", dtype=policy)(x)
        return layers.Conv2DTranspose(1, 3, padding="same", dtype=policy)(x)


class _Timewise:
    """Convolutions along time with the bands as channels.

    They share weights over time but not over frequency: the same sound may start at any frame, while
    each band has a meaning of its own.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.filters = (3 * width // 2, 2 * width, 2 * width)  # channels after each halving of the frames
        self.strides = (1, 2 ** len(self.filters))

    def encode(self, mel: Any, policy: str) -> Any:
        bands, frames = mel.shape[1:3]
        x = layers.Permute((2, 1), dtype=policy)(layers.Reshape((bands, frames), dtype=policy)(mel))
        x = layers.Dense(self.width, activation="silu", dtype=policy)(x)
        for filters in self.filters:
            x = layers.Conv1D(filters, 5, strides=2, padding="same", activation="silu", dtype=policy)(x)
        # Adam moves all weights by about the same amount, so a layer with many inputs moves z far in one step.
        x = layers.Dense(self.width // 2, activation="silu", dtype=policy)(x)
        return layers.Dense(4 * self.width, activation="silu", dtype=policy)(layers.Flatten(dtype=policy)(x))

    def decode(self, z: Any, size: tuple[int, int], policy: str) -> Any:
        bands, steps = size
        x = layers.Dense(4 * self.width, activation="silu", dtype=policy)(z)
        x = layers.Dense(steps * 2 * self.width, activation="silu", dtype=policy)(x)
        x = layers.Reshape((steps, 2 * self.width), dtype=policy)(x)
        for filters in reversed(self.filters):
            # A kernel of 4 at stride 2 covers every frame equally often, so no pattern repeats with the stride.
            x = layers.Conv1DTranspose(filters, 4, strides=2, padding="same", activation="silu", dtype=policy)(x)
        x = layers.Dense(bands, kernel_initializer="zeros", dtype=policy)(x)
        return layers.Reshape((bands, x.shape[1], 1), dtype=policy)(layers.Permute((2, 1), dtype=policy)(x))


_NETWORKS: Mapping[str, Callable[[int], Network]] = {"notebook": _Notebook, "timewise": _Timewise}
