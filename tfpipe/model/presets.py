"""Presets: the networks, the objective and the training defaults that go by one name. Loads no TensorFlow.

To add a preset, add a `Preset` to the tuple at the end of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tfpipe.errors import UsageError

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
MAX_LATENT = 4096


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Networks, objective and training defaults. `TrainConfig` can override the training defaults.

    Attributes:
        name: what `--preset` takes.
        network: `timewise` (convolutions along time, the mel bands are channels) or `notebook` (the
            notebook's convolutions over bands and frames).
        width: channels of the network's narrowest layer; the other layers have multiples of it.
        objective: `gaussian` (Gaussian likelihood with its best variance, per pixel) or `notebook`
            (mean squared error plus KL averaged over the dimensions).
        pads: whether a spectrogram whose size the strides do not divide is padded, and the output
            cropped. Without it such a size is refused.
        linear: whether a linear path runs beside the convolutions. It starts from PCA, so that
            training starts from the error of PCA.
        batch_size: examples in a global batch.
        epochs: passes over the training split.
        learning_rate: Adam's peak learning rate.
        schedule: `cosine` or `constant`.
        patience: epochs without a better validation loss after which training stops; 0 never stops.
        augment: the values of `AugmentConfig` that differ from its defaults.
    """

    name: str
    network: str
    width: int
    objective: str
    pads: bool
    linear: bool
    batch_size: int
    epochs: int
    learning_rate: float
    schedule: str
    patience: int
    augment: Mapping[str, Any] = field(default_factory=dict)


def preset(name: str) -> Preset:
    """Returns a preset by name.

    Raises:
        UsageError: no preset has this name.
    """
    if name not in PRESETS:
        raise UsageError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        chosen.name: chosen
        for chosen in (
            # docs/MODEL.md has the measurements behind the augmentation of `standard` and `large`.
            Preset(
                name="standard",
                network="timewise",
                width=64,
                objective="gaussian",
                pads=True,
                linear=True,
                batch_size=16,
                epochs=40,
                learning_rate=1e-3,
                schedule="cosine",
                patience=20,
                augment={"roll_s": 2.5},
            ),
            # The notebook's own values.
            Preset(
                name="notebook",
                network="notebook",
                width=32,
                objective="notebook",
                pads=False,
                linear=False,
                batch_size=10,
                epochs=50,
                learning_rate=1e-3,
                schedule="constant",
                patience=0,
            ),
            Preset(
                name="large",
                network="timewise",
                width=256,
                objective="gaussian",
                pads=True,
                linear=True,
                batch_size=64,
                epochs=100,
                learning_rate=5e-4,
                schedule="cosine",
                patience=20,
                augment={"roll_s": 2.5},
            ),
            # For tests and first tries.
            Preset(
                name="tiny",
                network="timewise",
                width=8,
                objective="gaussian",
                pads=True,
                linear=True,
                batch_size=16,
                epochs=10,
                learning_rate=5e-4,
                schedule="cosine",
                patience=0,
            ),
        )
    }
)
