"""The networks whose latent is a sequence along time (needs TensorFlow).

A window is cut into patches of a few frames; each patch becomes one step of the latent. A linear path, which starts
at PCA of the patches (`tfpipe.model.pca`), carries the notes. Residual convolutions along time run beside it: they
see the neighbouring patches and learn what the linear path leaves. Their last layers start at zero, so that training
starts with the error of PCA.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tfpipe.model.latent_shape import LatentShape
from tfpipe.model.presets import Preset
from tfpipe.spec import FeatureSpec

# Frames, or steps of the latent, that a convolution sees.
_FRAME_KERNEL, _STEP_KERNEL = 3, 5


@keras.saving.register_keras_serializable(package="tfpipe")
class Clip(layers.Layer):
    """Limits its input to [0, 1], but passes the gradient unchanged.

    So a value outside [0, 1] can still learn if the limited value is wrong.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the limited input."""
        return inputs + tf.stop_gradient(tf.clip_by_value(inputs, 0.0, 1.0) - inputs)


def encoder(chosen: Preset, spec: FeatureSpec, *, shape: LatentShape, policy: str) -> keras.Model:
    """Returns mel `[n, n_mels, frames, 1]` -> z_mean, z_log_var `[n, steps * channels]`."""
    patch = shape.patch(spec)
    mel = keras.Input((*spec.mel_shape, 1), name="mel")
    frames = layers.Permute((2, 1), dtype="float32")(layers.Reshape(spec.mel_shape, dtype="float32")(mel))
    frames = _pad(frames, shape.steps * patch - spec.frames)
    straight = layers.Conv1D(
        shape.channels, patch, strides=patch, use_bias=False, trainable=False, dtype="float32", name="linear"
    )(frames)
    x = layers.Conv1D(_narrow(chosen), _FRAME_KERNEL, padding="same", activation="silu", dtype=policy)(frames)
    x = layers.Conv1D(chosen.width, patch, strides=patch, activation="silu", dtype=policy)(x)
    for _ in range(chosen.depth):
        x = _residual(x, chosen.width, policy)
    learned = layers.Dense(shape.channels, kernel_initializer="zeros", dtype="float32", name="z_mean")(x)
    z_log_var = layers.Dense(shape.channels, kernel_initializer="zeros", dtype="float32", name="z_log_var")(x)
    z_mean = layers.Add(dtype="float32")([straight, learned])
    outputs = [layers.Reshape((shape.size,), dtype="float32")(part) for part in (z_mean, z_log_var)]
    return keras.Model(mel, outputs, name="encoder")


def decoder(chosen: Preset, spec: FeatureSpec, *, shape: LatentShape, policy: str) -> keras.Model:
    """Returns z `[n, steps * channels]` -> mel `[n, n_mels, frames, 1]` in [0, 1]."""
    patch, bands = shape.patch(spec), spec.n_mels
    frames = shape.steps * patch
    z = keras.Input((shape.size,), name="z")
    steps = layers.Reshape((shape.steps, shape.channels), dtype="float32")(z)
    straight = layers.Dense(patch * bands, dtype="float32", name="linear")(steps)
    straight = layers.Reshape((frames, bands), dtype="float32")(straight)
    x = layers.Conv1D(chosen.width, 3, padding="same", activation="silu", dtype=policy)(steps)
    for _ in range(chosen.depth):
        x = _residual(x, chosen.width, policy)
    x = layers.Dense(patch * _narrow(chosen), activation="silu", dtype=policy)(x)
    x = layers.Reshape((frames, _narrow(chosen)), dtype=policy)(x)
    # The linear path can jump at the borders of the patches. This convolution sees both sides of a border.
    x = layers.Conv1D(_narrow(chosen), _FRAME_KERNEL, padding="same", activation="silu", dtype=policy)(x)
    learned = layers.Dense(bands, kernel_initializer="zeros", dtype="float32")(x)
    made = layers.Add(dtype="float32")([straight, learned])
    if frames != spec.frames:
        made = layers.Cropping1D((0, frames - spec.frames), dtype="float32")(made)
    made = layers.Reshape((*spec.mel_shape, 1), dtype="float32")(layers.Permute((2, 1), dtype="float32")(made))
    return keras.Model(z, Clip(dtype="float32", name="output_mel")(made), name="decoder")


def _narrow(chosen: Preset) -> int:
    """Channels of the layers that run on every frame. They are few, because there are many more frames than steps."""
    return max(8, chosen.width // 4)


def _pad(frames: Any, missing: int) -> Any:
    return layers.ZeroPadding1D((0, missing), dtype="float32")(frames) if missing else frames


def _residual(x: Any, width: int, policy: str) -> Any:
    """Adds a block: one filter along time for each channel, then two dense layers, beside the identity.

    Source: ConvNeXt (Liu et al., 2022), along time alone.
    """
    y = layers.DepthwiseConv1D(_STEP_KERNEL, padding="same", dtype=policy)(x)
    y = layers.LayerNormalization(dtype=policy)(y)
    y = layers.Dense(2 * width, activation="silu", dtype=policy)(y)
    y = layers.Dense(width, kernel_initializer="zeros", dtype=policy)(y)
    return layers.Add(dtype=policy)([x, y])
