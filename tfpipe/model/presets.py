"""Presets: the networks, the objective and the training defaults that go by one name. Loads no TensorFlow.

To add a preset, add a `Preset` to the tuple at the end of this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tfpipe.errors import UsageError

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
# As many numbers as the log-mel of a default window has.
MAX_LATENT = 27_648
DEFAULT = "sequence"


@dataclass(frozen=True, kw_only=True)
class PriorSize:
    """The learned prior of a preset: its network (`tfpipe.model.prior`), and how it is trained.

    Attributes:
        width: channels of a step.
        depth: blocks.
        batch_size: windows in a global batch.
        learning_rate: Adam's peak learning rate.
        passes: how often training sees each window, if the limits below allow it.
        least_steps: training steps on a small corpus.
        most_steps: training steps on a large corpus.
    """

    width: int
    depth: int
    batch_size: int = 16
    learning_rate: float = 2e-3
    passes: int = 10
    least_steps: int = 900
    most_steps: int = 50_000

    def steps(self, examples: int) -> int:
        """Returns the training steps on a corpus with this number of training examples."""
        return min(max(self.passes * examples // self.batch_size, self.least_steps), self.most_steps)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Networks, objective and training defaults. `TrainConfig` can override the training defaults.

    Attributes:
        name: what `--preset` takes.
        network: `sequence` (a latent along time, `tfpipe.model.sequence`), `timewise` (one vector; convolutions
            along time, the mel bands are channels) or `notebook` (one vector; the notebook's convolutions
            over bands and frames).
        width: channels of the network: of its steps for `sequence`, else of its narrowest layer, of which the
            other layers have multiples.
        depth: residual blocks of each half of a `sequence` network.
        patch: frames that a step of the latent covers by default; None has one vector for the window.
        channels: numbers in a step, or in the one vector, by default.
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
        prior: the learned prior; None has the standard normal distribution.
    """

    name: str
    network: str
    width: int
    depth: int = 0
    patch: int | None = None
    channels: int = 16
    objective: str = "gaussian"
    pads: bool = True
    linear: bool = True
    batch_size: int
    epochs: int
    learning_rate: float
    schedule: str
    patience: int
    augment: Mapping[str, Any] = field(default_factory=dict)
    prior: PriorSize | None = None


def current_name(name: str) -> str:
    """Returns the name that a preset has today: in earlier versions `compact` was called `standard`."""
    return "compact" if name == "standard" else name


def preset(name: str) -> Preset:
    """Returns a preset by name.

    Raises:
        UsageError: no preset has this name.
    """
    name = current_name(name)
    if name not in PRESETS:
        raise UsageError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def stored_preset(name: str, network: str) -> Preset:
    """Returns the preset that a run folder names, also one of an earlier version with another network."""
    chosen = preset(name)
    return chosen if chosen.network == network else _EARLIER[chosen.name]


def in_words(name: str) -> str:
    """Returns a training default as help shows it: the default preset's, then those that differ.

    Args:
        name: field of `Preset`, such as `epochs`: `40; notebook: 50, large: 100, tiny: 10`.
    """
    return words_by_preset({preset.name: getattr(preset, name) for preset in PRESETS.values()})


def words_by_preset(values: Mapping[str, Any]) -> str:
    """Returns values by preset as help shows them: the default preset's, then those that differ."""
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    others = ", ".join(f"{name}: {value}" for name, value in shown.items() if value != shown[DEFAULT])
    return f"{shown[DEFAULT]}; {others}" if others else shown[DEFAULT]


_COSINE: Mapping[str, Any] = {"schedule": "cosine", "augment": {"roll_s": 2.5}}
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        chosen.name: chosen
        for chosen in (
            # docs/MODEL.md has the measurements behind these values.
            Preset(
                name="sequence",
                network="sequence",
                width=256,
                depth=3,
                patch=8,
                channels=96,
                batch_size=16,
                epochs=40,
                learning_rate=2e-3,
                patience=20,
                prior=PriorSize(width=256, depth=4),
                **_COSINE,
            ),
            # One vector for a window: for maps and sliders.
            Preset(
                name="compact",
                network="timewise",
                width=64,
                batch_size=16,
                epochs=40,
                learning_rate=1e-3,
                patience=20,
                **_COSINE,
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
                network="sequence",
                width=768,
                depth=6,
                patch=8,
                channels=96,
                batch_size=64,
                epochs=100,
                learning_rate=5e-4,
                patience=20,
                prior=PriorSize(width=768, depth=8, batch_size=128, learning_rate=5e-4, passes=60),
                **_COSINE,
            ),
            # For tests and first tries.
            Preset(
                name="tiny",
                network="sequence",
                width=16,
                depth=1,
                patch=8,
                channels=16,
                batch_size=16,
                epochs=10,
                learning_rate=5e-4,
                schedule="cosine",
                patience=0,
                prior=PriorSize(width=32, depth=1, learning_rate=5e-3, passes=1, least_steps=100),
            ),
        )
    }
)
# Networks that presets had in earlier versions, so that run folders of those versions can be read.
_EARLIER: Mapping[str, Preset] = MappingProxyType(
    {
        name: dataclasses.replace(PRESETS[name], network="timewise", width=width, depth=0, patch=None, channels=16)
        for name, width in (("large", 256), ("tiny", 8))
    }
)
