"""What a decoder tells about an audio file, and the interface that every decoder implements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Sound as numbers, float32 or float64; full scale is 1.0.
Samples = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The properties of an audio file.

    Attributes:
        sample_rate: Hz.
        channels: number of interleaved channels.
        frames: samples per channel.
        seconds: length in s.
        format: container and codec, such as `WAV/PCM_16`.
        decoder: the decoder that reads the file, `libsndfile` or `ffmpeg`.
    """

    sample_rate: int
    channels: int
    frames: int
    seconds: float
    format: str
    decoder: str = "libsndfile"


class Decoder(Protocol):
    """An audio file that is open for reading.

    Attributes:
        info: the properties of the file.
    """

    info: AudioInfo

    def frames(self, first: int, count: int) -> Iterator[Samples]:
        """Yields blocks `[n, channels]` with the `count` frames from frame `first`, fewer if the file ends before.

        Full scale is 1.0. Each frame has the same samples whatever `first` is, and whatever the earlier calls were.

        Raises:
            AudioError: the file is damaged there or cannot be read.
        """

    def close(self) -> None:
        """Closes the file."""
