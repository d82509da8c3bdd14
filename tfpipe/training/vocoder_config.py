"""The settings of `tfpipe train-vocoder`. Loads no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

from tfpipe.model.presets import PRECISIONS
from tfpipe.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """How a vocoder is trained.

    Raises:
        UsageError: a value has the wrong type or is out of range.
    """

    steps: int = setting(2500, at_least=1, at_most=10_000_000, help="training steps; they take a CPU some minutes")
    seed: int = setting(0, at_least=0, below=2**31, help="of the weights and of the order of windows")
    precision: str = setting("auto", choices=PRECISIONS, help="precision of the layers, as for `tfpipe train`")

    def __post_init__(self) -> None:
        check(self)
