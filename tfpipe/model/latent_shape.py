"""The shape of the latent: one vector for a window, or a sequence of vectors along its frames. Loads no TensorFlow.

`z` is always one vector `[n, steps * channels]`. In a sequence the channels of the first step come first
(time-major), so that `z.reshape(n, steps, channels)` gives the steps in order.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tfpipe.errors import SpecError, UsageError
from tfpipe.model.presets import MAX_LATENT, Preset
from tfpipe.spec import FeatureSpec

_TEXT = re.compile(r"(?:(\d{1,6})\s*[xX]\s*)?(\d{1,6})")


@dataclass(frozen=True)
class LatentShape:
    """Steps along time, and numbers in each step.

    Attributes:
        steps: 1 is a single vector for the whole window.
        channels: numbers in each step.
    """

    steps: int
    channels: int

    @property
    def size(self) -> int:
        """Numbers in z."""
        return self.steps * self.channels

    def patch(self, spec: FeatureSpec) -> int:
        """Returns the frames that one step covers; the window is padded to `steps` times as many."""
        return math.ceil(spec.frames / self.steps)

    def __str__(self) -> str:
        return f"{self.steps}x{self.channels}" if self.steps > 1 else str(self.channels)


def parse_latent(latent: int | str) -> LatentShape:
    """Reads `16` (one vector of 16 numbers) or `27x64` (27 steps of 64 numbers).

    Raises:
        UsageError: the text is neither, or there are too many numbers.
    """
    match = _TEXT.fullmatch(str(latent).strip())
    if not match:
        raise UsageError(f"latent={latent!r} is not a size; use a number such as 16, or STEPSxCHANNELS such as 27x64")
    shape = LatentShape(int(match[1] or 1), int(match[2]))
    if not 1 <= shape.size <= MAX_LATENT:
        raise UsageError(f"latent={latent} is out of range; use 1 to {MAX_LATENT} numbers")
    return shape


def latent_shape(chosen: Preset, latent: int | str | None, spec: FeatureSpec) -> LatentShape:
    """Returns the shape of the latent of a preset on windows of a spec.

    Args:
        chosen: the preset.
        latent: what `--latent` takes; None is the preset's own.
        spec: gives the frames of a window.

    Raises:
        UsageError: the text is not a size, or the preset has no sequence.
        SpecError: the steps do not fit the frames, or a step has more numbers than it covers; the message
            names a size that fits.
    """
    if latent is None:
        if chosen.patch is None:
            return LatentShape(1, chosen.channels)
        steps = math.ceil(spec.frames / chosen.patch)
        return LatentShape(steps, min(chosen.channels, math.ceil(spec.frames / steps) * spec.n_mels))
    shape = parse_latent(latent)
    if shape.steps > 1 and chosen.patch is None:
        raise UsageError(f"preset {chosen.name!r} has one vector for a window; use --latent {shape.size}")
    steps = min(shape.steps, spec.frames)
    fitting = math.ceil(spec.frames / math.ceil(spec.frames / steps))
    if fitting != shape.steps:
        raise SpecError(
            f"latent={shape}: {spec.frames} frames cannot be cut into {shape.steps} steps of equal length; "
            f"use {fitting}x{shape.channels}"
        )
    if chosen.patch is not None and shape.channels > (most := shape.patch(spec) * spec.n_mels):
        raise SpecError(f"latent={shape}: a step covers only {most} numbers of the log-mel; use {shape.steps}x{most}")
    return shape
