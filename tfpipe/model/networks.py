"""The convolutional VAE: presets, encoder, decoder, objective (needs TensorFlow).

Encoder: mel `[n, n_mels, frames, 1]` -> z_mean, z_log_var `[n, latent]`.
Decoder: z `[n, latent]` -> mel `[n, n_mels, frames, 1]` in [0, 1].
Latents, outputs and losses are float32 under every precision policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfpipe.errors import SpecError, UsageError
from tfpipe.spec import FeatureSpec

# Keeps the likelihood of a perfect reconstruction finite.
_LEAST_MSE = 1e-12


class Losses(NamedTuple):
    """Per-example terms: `mse` `[n]` (mean over pixels) and `kl` `[n, latent]` in nats."""

    mse: tf.Tensor
    kl: tf.Tensor


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named architecture and its objective.

    Attributes:
        encoder: adds the layers between input and flattening.
        decoder: turns the latent input into logits `[n, height, width, 1]`.
        strides: products of the strides along bands and frames; the input is padded
            to multiples of them and the output cropped, where `pads` allows it.
        pads: whether sizes that the strides do not divide are padded.
        objective: `notebook` (mse + mean KL) or `gaussian` (Gaussian
            likelihood with its best variance, per pixel).
        linear: adds a linear path beside the convolutions, so that the model
            starts from what PCA can do.
    """

    encoder: Callable[[Any, str], Any]
    decoder: Callable[[Any, tuple[int, int], str], Any]
    strides: tuple[int, int]
    pads: bool
    objective: str
    linear: bool


class Models(NamedTuple):
    """Encoder and decoder of one VAE."""

    encoder: keras.Model
    decoder: keras.Model


def preset(name: str) -> Preset:
    """Returns a preset by name.

    Raises:
        UsageError: unknown name.
    """
    if name not in PRESETS:
        raise UsageError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build(name: str, spec: FeatureSpec, *, latent: int, policy: str = "float32") -> Models:
    """Builds encoder and decoder with fresh weights.

    Args:
        name: preset name.
        spec: gives the input size.
        latent: dimensions of z.
        policy: Keras dtype policy of the layers.

    Raises:
        UsageError: unknown preset or latent size out of range.
        SpecError: the preset cannot take the spec's size; the message names sizes that fit.
    """
    chosen = preset(name)
    if not 1 <= latent <= 4096:
        raise UsageError(f"latent size {latent} is out of range; use 1 to 4096")
    size = _padded(spec, chosen, name)
    return Models(_encoder(chosen, spec, size, latent, policy), _decoder(chosen, spec, size, latent, policy))


def sample(z_mean: tf.Tensor, z_log_var: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Moves standard normal `noise` `[n, latent]` into the posterior (the reparameterisation trick)."""
    return z_mean + tf.exp(0.5 * z_log_var) * noise


def losses(mel: tf.Tensor, reconstruction: tf.Tensor, z_mean: tf.Tensor, z_log_var: tf.Tensor) -> Losses:
    """Computes the per-example terms that every objective is made of."""
    mse = tf.reduce_mean(tf.square(mel - reconstruction), axis=[1, 2, 3])
    kl = 0.5 * (tf.square(z_mean) + tf.exp(z_log_var) - 1.0 - z_log_var)
    return Losses(mse, kl)


def objective(name: str, mse: Any, kl: Any, *, pixels: int, latent: int) -> Any:
    """Returns the loss for mean `mse` and mean summed `kl` (nats) of a batch or an epoch.

    `notebook`: mse + KL averaged over the dimensions. `gaussian`: the negative
    evidence lower bound per pixel under a Gaussian likelihood whose variance is
    the mean squared error itself (Rybkin et al., 2021), up to a constant.
    """
    if name == "notebook":
        return mse + kl / latent
    if tf.is_tensor(mse):
        return 0.5 * tf.math.log(tf.maximum(mse, _LEAST_MSE)) + kl / pixels
    return 0.5 * math.log(max(mse, _LEAST_MSE)) + kl / pixels


def gradient_weight(name: str, mse: tf.Tensor) -> tf.Tensor:
    """Returns what a per-example mse is multiplied by so that its gradient is the objective's.

    The gradient of 0.5 log(mse) is that of mse / (2 mse) with the divisor held
    fixed; written so, examples add up across replicas exactly.
    """
    return tf.ones_like(mse) if name == "notebook" else tf.stop_gradient(0.5 / tf.maximum(mse, _LEAST_MSE))


def start_from_pca(models: Models, mels: np.ndarray) -> None:
    """Sets the linear path of a fresh model to PCA, so that training starts where a linear model ends.

    z becomes the standardised principal components; the decoder's kernel is the
    regression of the logits on them, its band bias the mean spectrum. Presets
    without a linear path stay as they are.

    Args:
        models: freshly built.
        mels: `[n, n_mels, frames]` in [0, 1], a sample of the training split.
    """
    if not any(layer.name == "linear" for layer in models.encoder.layers):
        return
    latent, pixels = models.decoder.input_shape[-1], int(np.prod(mels.shape[1:]))
    data = mels.reshape(len(mels), pixels).astype(np.float32)
    mean = data.mean(axis=0)
    basis, deviations = principal_components(data - mean, latent)
    towards_z = np.zeros((pixels, latent), np.float32)
    towards_z[:, : len(basis)] = basis.T / deviations
    clipped = np.clip(mels, 0.02, 0.98)
    logits = np.log(clipped / (1.0 - clipped))
    profile = logits.mean(axis=(0, 2)).astype(np.float32)
    centred = (logits - profile[:, None]).reshape(len(mels), pixels)
    z = (data - mean) @ towards_z
    models.encoder.get_layer("linear").kernel.assign(towards_z)
    models.encoder.get_layer("z_mean").bias.assign(-mean @ towards_z)
    models.decoder.get_layer("linear").kernel.assign(z.T @ centred / len(mels))
    models.decoder.get_layer("band_bias").bias.assign(profile.reshape(1, -1, 1, 1))


def principal_components(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the leading principal components of fewer examples than pixels, from their Gram matrix.

    Args:
        centred: `[n, pixels]` with zero mean.
        count: components wanted.

    Returns:
        Orthonormal rows `[k, pixels]` float32, largest first, k at most `count`
        and the rank; and the standard deviation `[k]` along each.
    """
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    order = np.argsort(values)[::-1][:count]
    order = order[values[order] > 1e-7 * max(float(values.max()), 1e-30)]
    basis = (vectors[:, order] / np.sqrt(values[order])).T @ centred
    # An eigenvector's sign is arbitrary: fix it, so that every machine finds the same.
    basis *= np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
    return basis.astype(np.float32), np.sqrt(values[order] / len(centred)).astype(np.float32)


@keras.saving.register_keras_serializable(package="tfpipe")
class BandBias(layers.Layer):
    """Adds a trained offset per mel band to `[n, n_mels, frames, 1]`."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the `[1, n_mels, 1, 1]` weight."""
        self.bias = self.add_weight(name="bias", shape=(1, input_shape[1], 1, 1), initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the shifted input."""
        return inputs + tf.cast(self.bias, inputs.dtype)


def _padded(spec: FeatureSpec, chosen: Preset, name: str) -> tuple[int, int]:
    height, width = (math.ceil(n / stride) * stride for n, stride in zip(spec.mel_shape, chosen.strides, strict=True))
    if not chosen.pads and (height, width) != spec.mel_shape:
        raise SpecError(
            f"preset {name!r} cannot take {spec.n_mels}x{spec.frames}, as the spec gives; "
            f"use n_mels={height} and {width} frames (window_s={width * spec.hop / spec.sample_rate:.3f} "
            "with this hop), or preset standard, which pads"
        )
    return height, width


def _encoder(chosen: Preset, spec: FeatureSpec, size: tuple[int, int], latent: int, policy: str) -> keras.Model:
    mel = keras.Input((*spec.mel_shape, 1), name="mel")
    padding = ((0, size[0] - spec.n_mels), (0, size[1] - spec.frames))
    padded = layers.ZeroPadding2D(padding, dtype=policy)(mel) if size != spec.mel_shape else mel
    hidden = layers.Flatten(dtype=policy)(chosen.encoder(padded, policy))
    # With a linear path the convolutions start silent and learn what is left over.
    start: dict[str, Any] = {"kernel_initializer": "zeros"} if chosen.linear else {}
    narrow: dict[str, Any] = {**start, "bias_initializer": keras.initializers.Constant(-4.0)} if chosen.linear else {}
    z_mean = layers.Dense(latent, dtype="float32", name="z_mean", **start)(hidden)
    z_log_var = layers.Dense(latent, dtype="float32", name="z_log_var", **narrow)(hidden)
    if chosen.linear:
        # Fixed at PCA: with 27 648 inputs, one optimizer step would throw z far off.
        project = layers.Dense(latent, use_bias=False, dtype="float32", trainable=False, name="linear")
        straight = project(layers.Flatten(dtype="float32")(mel))
        z_mean = layers.Add(dtype="float32")([z_mean, straight])
    return keras.Model(mel, [z_mean, z_log_var], name="encoder")


def _decoder(chosen: Preset, spec: FeatureSpec, size: tuple[int, int], latent: int, policy: str) -> keras.Model:
    z = keras.Input((latent,), name="z")
    logits = chosen.decoder(z, (size[0] // chosen.strides[0], size[1] // chosen.strides[1]), policy)
    if size != spec.mel_shape:
        cropping = ((0, size[0] - spec.n_mels), (0, size[1] - spec.frames))
        logits = layers.Cropping2D(cropping, dtype=policy)(logits)
    if chosen.linear:
        straight = layers.Dense(spec.n_mels * spec.frames, use_bias=False, dtype=policy, name="linear")(z)
        straight = layers.Reshape((*spec.mel_shape, 1), dtype=policy)(straight)
        logits = BandBias(dtype="float32", name="band_bias")(layers.Add(dtype="float32")([logits, straight]))
    # The sigmoid in half precision saturates and loses a third of the gradients.
    return keras.Model(z, layers.Activation("sigmoid", dtype="float32", name="output_mel")(logits), name="decoder")


def _notebook_encoder(x: Any, policy: str) -> Any:
    for filters, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", activation="relu", dtype=policy)(x)
    return x


def _notebook_decoder(z: Any, size: tuple[int, int], policy: str) -> Any:
    x = layers.Dense(size[0] * size[1] * 256, dtype=policy)(z)
    x = layers.Reshape((*size, 256), dtype=policy)(x)
    for filters, stride in ((256, 2), (128, 2), (64, 2), (32, 1)):
        x = layers.Conv2DTranspose(filters, 3, strides=stride, padding="same", activation="relu", dtype=policy)(x)
    return layers.Conv2DTranspose(1, 3, padding="same", dtype=policy)(x)


def _timewise_encoder(width: int) -> Callable[[Any, str], Any]:
    """Convolves along time alone, the bands as channels: a band means the same everywhere, a moment does not."""

    def encode(x: Any, policy: str) -> Any:
        bands, frames = x.shape[1:3]
        x = layers.Permute((2, 1), dtype=policy)(layers.Reshape((bands, frames), dtype=policy)(x))
        x = layers.Dense(width, activation="silu", dtype=policy)(x)
        for filters in _widths(width):
            x = layers.Conv1D(filters, 5, strides=2, padding="same", activation="silu", dtype=policy)(x)
        # Narrow before the dense layer: Adam moves every weight alike, so a wide fan-in moves z by leaps.
        x = layers.Dense(width // 2, activation="silu", dtype=policy)(x)
        return layers.Dense(4 * width, activation="silu", dtype=policy)(layers.Flatten(dtype=policy)(x))

    return encode


def _timewise_decoder(width: int) -> Callable[[Any, tuple[int, int], str], Any]:
    """Mirrors `_timewise_encoder`; a kernel of 4 at stride 2 overlaps evenly, so nothing repeats with the stride."""

    def decode(z: Any, size: tuple[int, int], policy: str) -> Any:
        bands, steps = size
        x = layers.Dense(4 * width, activation="silu", dtype=policy)(z)
        x = layers.Dense(steps * 2 * width, activation="silu", dtype=policy)(x)
        x = layers.Reshape((steps, 2 * width), dtype=policy)(x)
        for filters in reversed(_widths(width)):
            x = layers.Conv1DTranspose(filters, 4, strides=2, padding="same", activation="silu", dtype=policy)(x)
        x = layers.Dense(bands, kernel_initializer="zeros", dtype=policy)(x)
        return layers.Reshape((bands, x.shape[1], 1), dtype=policy)(layers.Permute((2, 1), dtype=policy)(x))

    return decode


def _widths(width: int) -> tuple[int, int, int]:
    """Channels after each halving of the frames."""
    return 3 * width // 2, 2 * width, 2 * width


def _timewise(width: int) -> Preset:
    return Preset(
        encoder=_timewise_encoder(width),
        decoder=_timewise_decoder(width),
        strides=(1, 2 ** len(_widths(width))),
        pads=True,
        objective="gaussian",
        linear=True,
    )


PRESETS: dict[str, Preset] = {
    "standard": _timewise(64),
    "notebook": Preset(
        encoder=_notebook_encoder,
        decoder=_notebook_decoder,
        strides=(8, 8),
        pads=False,
        objective="notebook",
        linear=False,
    ),
    "large": _timewise(256),
    "tiny": _timewise(8),
}
