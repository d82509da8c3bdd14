"""The settings by which recordings are read and cut into windows. Loads no decoder."""

from __future__ import annotations

from dataclasses import dataclass

from tfpipe.settings import check, setting

# `auto` is `library`.
DECODERS = ("auto", "library", "tensorflow-io")


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """How a track is cut into windows; `tfpipe.audio.reader.window_starts` applies it.

    Raises:
        UsageError: a value has the wrong type or is out of range.
    """

    hop_s: float | None = setting(
        None, at_least=0.01, at_most=3600, help="s between window starts; by default one window, so none overlap"
    )
    min_fill: float = setting(
        0.5,
        above=0,
        at_most=1,
        help="share of a window that the end of a track, or a short track, must fill",
    )

    def __post_init__(self) -> None:
        check(self)
