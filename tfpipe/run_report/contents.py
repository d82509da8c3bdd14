"""What the report shows of a run. Does not load TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tfpipe.data.manifest import Skipped
from tfpipe.spec import FeatureSpec

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A window to look at and to listen to.

    Attributes:
        title: what it is.
        mel: log-mel `[n_mels, frames]` in [0, 1].
        audio: `[samples]`, full scale 1.0.
    """

    title: str
    mel: Array
    audio: Array


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A recorded window beside its reconstruction.

    Attributes:
        name: recording and time.
        label: name of its label.
        split: the split it is from.
        original: the window; its audio is the recording's if that can still be read.
        rebuilt: its reconstruction.
        mse: mean squared error of the log-mel.
    """

    name: str
    label: str
    split: str
    original: Sound
    rebuilt: Sound
    mse: float


@dataclass(frozen=True, kw_only=True)
class MappedWindow:
    """A window on the map.

    Attributes:
        name: recording and time.
        label: index of its label.
        split: the split it is from.
        x: place to the right, 0 to 1.
        y: place upwards, 0 to 1.
        audio: `[samples]`, full scale 1.0.
        mse: mean squared error of its reconstruction.
        path: its recording.
        start_s: its start in the recording, s.
        z: its latent `[d]`.
    """

    name: str
    label: int
    split: str
    x: float
    y: float
    audio: Array
    mse: float
    path: str
    start_s: float
    z: Array


@dataclass(frozen=True, kw_only=True)
class WorstTrack:
    """A held-out recording whose reconstructions are worse than others'."""

    path: str
    label: str
    split: str
    windows: int
    mse: float


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that the page shows. `tfpipe.run_report.gather.Gatherer` makes the sections."""

    spec: FeatureSpec
    labels: tuple[str, ...]
    evaluation: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    prior_history: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    pairs: Sequence[Pair] = ()
    variants: Mapping[str, Sequence[Sound]] = field(default_factory=dict)
    draws: Mapping[str, Sequence[Sound]] = field(default_factory=dict)
    between: Sequence[Sound] = ()
    channels: Mapping[str, Sequence[Sound]] = field(default_factory=dict)
    mapped: Sequence[MappedWindow] = ()
    worst: Sequence[WorstTrack] = ()
    skipped: Sequence[Skipped] = ()
    from_recordings: bool = True
