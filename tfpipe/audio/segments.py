"""Decoding in segments, for formats whose samples depend on where decoding begins.

Each segment is decoded from its own start, so that a frame has the same samples wherever a read begins.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfpipe.audio.info import Samples

# Length of a segment, s. A read from the middle of a file decodes up to this much more than it returns.
SEGMENT_S = 30


class Segment:
    """A part of a file that is decoded from its start on, as far as it is read.

    Args:
        start: first frame.
        blocks: yields the frames from `start` on in blocks `[n, channels]`.

    Attributes:
        start: first frame.
        place: the next frame to read; earlier ones are gone.
    """

    def __init__(self, start: int, blocks: Iterator[Samples]) -> None:
        self.start = self.place = start
        self._blocks = blocks
        self._rest = np.zeros((0, 1), np.float32)

    def read(self, first: int, stop: int) -> Iterator[Samples]:
        """Yields the frames from `first`, which is not before `place`, up to `stop`, fewer if the file breaks off."""
        while self.place < stop:
            if not len(self._rest):
                if (block := next(self._blocks, None)) is None:
                    return
                self._rest = block
            used = min(len(self._rest), stop - self.place)
            part = self._rest[max(0, first - self.place) : used]
            self._rest = self._rest[used:]
            self.place += used
            if len(part):
                yield part
