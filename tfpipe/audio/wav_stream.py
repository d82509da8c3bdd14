"""A wav that is sent while it is made, so that its length may be unknown."""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.audio.level import fade_edges, limit_peaks, limiter_reach

# What stands in the header for a length that is not known, or does not fit into its 32 bits. Players then read on until
# the stream ends.
_UNKNOWN = 2**32 - 1
_HEADER_BYTES = 44


def wav_stream(
    pieces: Iterable[NDArray[np.floating[Any]]], sample_rate: int, *, samples: int | None = None, fade_s: float = 0.0
) -> Iterator[bytes]:
    """Yields a mono 16-bit wav: the header, then what `tfpipe.audio.wav.write_long_wav` would write, piece by piece.

    A peak changes the samples before it, so a few milliseconds of each piece are held back for the next.

    Args:
        pieces: arrays `[any]`, full scale is 1.0.
        sample_rate: Hz.
        samples: length of the sound; None if it is not known, and then the sound does not fade at its end.
        fade_s: length of a fade at both ends, s.
    """
    yield _header(sample_rate, samples)
    reach, fade = limiter_reach(sample_rate), round(fade_s * sample_rate)
    # `held` begins with samples that were sent before, because they decide about those after them.
    held, sent, start = np.zeros(0, np.float32), 0, 0
    for piece in itertools.chain(pieces, [None]):
        if piece is not None:
            held = np.concatenate([held, piece])
        end = len(held) if piece is None else max(sent, len(held) - reach)
        limited = limit_peaks(held, sample_rate)[sent:end]
        faded = fade_edges(limited, start=start, total=sys.maxsize if samples is None else samples, fade=fade)
        if len(faded):
            # libsndfile makes numbers of 32 bits of a file's samples, and keeps the upper 16.
            whole = np.clip(faded.astype(np.float64), -1.0, 1.0) * (2**31 - 1)
            yield np.floor(whole / 2**16).astype("<i2").tobytes()
        start += end - sent
        sent = min(end, reach)
        held = held[end - sent :]


def _header(sample_rate: int, samples: int | None) -> bytes:
    size = _UNKNOWN if samples is None else min(2 * samples, _UNKNOWN)
    riff = min(size + _HEADER_BYTES - 8, _UNKNOWN)
    form = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size)
