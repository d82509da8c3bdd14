"""A network that corrects the STFT magnitudes which are estimated from a log-mel (needs TensorFlow).

Mel bands say how much sound there is in a band, not where in it. The estimate of `tfpipe.features.inversion_tf` knows
nothing of the recordings; the network has learned from them where partials and formants lie, and what a decoder blurs.
Only magnitudes are learned. Phases follow from them as without the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras import layers

from tfpipe.features.inversion_tf import covered_bins
from tfpipe.spec import FeatureSpec

# Frames that a filter sees.
_KERNEL = 7
# Log-mels are moved and scaled by these, so that they have about mean 0 and deviation 1.
_MIDDLE, _SCALE = 0.6, 6.0


@dataclass(frozen=True, kw_only=True)
class MagnitudeSize:
    """Size of the network.

    Attributes:
        width: channels.
        depth: residual blocks.
    """

    width: int = 256
    depth: int = 4


def build(spec: FeatureSpec, size: MagnitudeSize, *, policy: str = "float32") -> keras.Model:
    """Builds the network; at first it changes nothing.

    Source of the blocks: ConvNeXt (Liu et al., 2022), along time alone, as Vocos uses them (Siuzdak, 2023).

    Args:
        spec: gives the bands and bins.
        size: of the network.
        policy: Keras dtype policy of the layers.

    Returns:
        The model of log-mel `[n, frames, n_mels]` -> what is added to the natural log of the magnitudes
        `[n, frames, covered bins]`, float32.
    """
    mel = keras.Input((None, spec.n_mels), name="mel")
    x = layers.Rescaling(_SCALE, -_SCALE * _MIDDLE, dtype="float32", name="scaled")(mel)
    x = layers.Conv1D(size.width, _KERNEL, padding="same", dtype=policy, name="bands")(x)
    for index in range(size.depth):
        name = f"block_{index}"
        y = layers.DepthwiseConv1D(_KERNEL, padding="same", dtype=policy, name=f"{name}_filters")(x)
        y = layers.LayerNormalization(dtype=policy, name=f"{name}_normal")(y)
        y = layers.Dense(3 * size.width, activation="silu", dtype=policy, name=f"{name}_wide")(y)
        y = layers.Dense(size.width, dtype=policy, name=f"{name}_narrow")(y)
        x = layers.Add(dtype=policy, name=f"{name}_sum")([x, y])
    x = layers.LayerNormalization(dtype=policy, name="normal")(x)
    _, bins = covered_bins(spec)
    output = layers.Dense(bins, kernel_initializer="zeros", dtype="float32", name="output")(x)
    return keras.Model(mel, output, name="vocoder")
