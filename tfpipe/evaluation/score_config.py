"""The settings of `tfpipe score`. Loads no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

from tfpipe.audio.cutting import DECODERS, CutConfig
from tfpipe.settings import setting


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(CutConfig):
    """How recordings are scored. If a dataset was made with other `hop_s` or `min_fill`, give the same values here.

    Raises:
        UsageError: a value has the wrong type or is out of range.
    """

    which: str = setting("best", metavar="NAME", help="checkpoint: best, latest or a name such as step-00000120")
    batch_size: int = setting(16, at_least=1, help="windows in a batch")
    decoder: str = setting(
        "auto",
        choices=DECODERS,
        help="auto is library; tensorflow-io is slower and reads fewer formats, for comparing",
    )
