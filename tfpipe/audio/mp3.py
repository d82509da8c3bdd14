"""The frames of an MPEG audio file (layers I to III), counted by their headers and not decoded.

If no Xing header gives the length of such a file, libsndfile estimates it from
the size and reads exactly that much: too much at a constant bit rate, too little
at a variable one. This module counts the frames instead. Each frame's header
gives the frame's size, and so the place of the next frame.
`tfpipe.audio.libsndfile` calls this module.

Formats: ISO 11172-3 and 13818-3, and MPEG 2.5 for 8 to 12 kHz; the Xing (or
Info) and VBRI headers, which are frames of silence that players skip;
ID3v2 tags at the start; ID3v1 and APE tags at the end.
"""

from __future__ import annotations

import os
from typing import BinaryIO, NamedTuple, cast

from tfpipe.errors import AudioError

# Bytes that are read at a time, more than the largest frame; bytes that are enough for any header.
_BLOCK, _HEAD = 2**18, 64
# kbit/s for the header's index, which starts at 1. Index 0 means a rate that the header does not give.
_RATES_1 = {
    1: range(32, 449, 32),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_2 = {1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256), 2: _LOW, 3: _LOW}
# Sample rates of MPEG 1, in Hz, and their divisors for MPEG 1, 2 and 2.5, by the header's version bits.
_HZ, _DIVISORS = (44_100, 48_000, 32_000), {3: 1, 2: 2, 0: 4}
# What may follow the last frame.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


class _Stream(NamedTuple):
    """What the first frame's header says about all frames."""

    kind: int  # second byte of each frame, with the bit for a checksum set
    sizes: tuple[int, ...]  # bytes of a frame by the third byte of its header; 0 if that byte cannot be
    samples: int  # in a frame, per channel


class _Promise(NamedTuple):
    """What a Xing or VBRI header says about the frames after it; 0 if it does not say it."""

    frames: int
    size: int  # bytes from the start of this header
    vbri: bool  # libsndfile does not know VBRI headers


def count_samples(path: str | os.PathLike[str], file: BinaryIO) -> int | None:
    """Counts the samples of a file whose length no Xing header gives.

    Reads the whole file, in blocks, unless the size in a Xing header shows that nothing is missing.

    Args:
        path: names the file in errors.
        file: the open file.

    Returns:
        Samples per channel. None if libsndfile must find the length: because a Xing header gives it, or
        because the file holds something other than frames and tags.

    Raises:
        AudioError: the last frame is cut, or the file has fewer frames than a header promises.
    """
    start, end = _extent(file)
    head = _at(file, start, _HEAD)
    if (stream := _stream(head)) is None or end <= start:
        return None
    promise = _promise(head)
    if promise and promise.frames and promise.size == end - start and not promise.vbri:
        return None
    frames, last = _walk(file, stream, start, end)
    rest = _at(file, last, min(11, max(0, end - last)))
    if last > end or (0 < len(rest) < 4 and rest[0] == head[0]):
        raise AudioError("truncated", f"{path}: breaks off within its last frame")
    if rest and not rest.startswith(_TAGS):
        return None
    if promise is None:
        return frames * stream.samples
    # The number in a Xing header does not count the header's own frame. With VBRI it depends on the encoder.
    if promise.frames > (frames if promise.vbri else frames - 1):
        raise AudioError("truncated", f"{path}: breaks off, {frames - 1} of {promise.frames} promised frames are there")
    return None if promise.frames and not promise.vbri else (frames - 1) * stream.samples


def open_frames(file: BinaryIO, samples: int) -> BinaryIO:
    """Returns a view of a file in which libsndfile can read `samples` samples per channel.

    The view holds the frames without the tags, and zeros after them. Because of the zeros the length that
    libsndfile estimates from the size is never too short. The caller must stop at `samples`.

    Args:
        file: a file for which `count_samples` has returned `samples`; closed with the view.
        samples: per channel.

    Raises:
        ValueError: the file has changed since then.
    """
    start, end = _extent(file)
    head = _at(file, start, _HEAD)
    if (stream := _stream(head)) is None:
        raise ValueError("no longer the file whose frames were counted")
    if _promise(head) is not None:
        start += stream.sizes[head[2]]
    size = max(end - start, samples // stream.samples * max(stream.sizes))
    return cast(BinaryIO, _Frames(file, start, end, size))


class _Frames:
    """The bytes from `start` to `end` of a file, followed by zeros up to `size` bytes in all."""

    def __init__(self, file: BinaryIO, start: int, end: int, size: int) -> None:
        self._file, self._start, self._end, self._size = file, start, end, size
        self._place = 0
        self.close = file.close

    def read(self, count: int) -> bytes:
        count = max(0, min(count, self._size - self._place))
        place = self._start + self._place
        self._place += count
        data = _at(self._file, place, min(count, self._end - place)) if place < self._end else b""
        return data.ljust(count, b"\0")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place


def _extent(file: BinaryIO) -> tuple[int, int]:
    """Returns where the frames start (after ID3v2 tags) and where they end (before APEv2 and ID3v1 tags)."""
    start, end = 0, file.seek(0, os.SEEK_END)
    if _at(file, max(0, end - 128), 3) == b"TAG":
        end -= 128
    foot = _at(file, max(0, end - 32), 32)
    if foot.startswith(b"APETAGEX"):
        end -= int.from_bytes(foot[12:16], "little") + (32 if foot[23] & 0x80 else 0)  # it may have a header too
    while (head := _at(file, start, 10)).startswith(b"ID3") and len(head) == 10:
        size = sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(head[6:]))
        start += size + (20 if head[5] & 0x10 else 10)  # it may have a footer too
    return start, end


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    """Reads `count` bytes at a position, fewer at the end of the file."""
    file.seek(place)
    return file.read(count)


def _stream(head: bytes) -> _Stream | None:
    """Reads the header of the first frame; None if it is no frame or its size is unknown."""
    version, layer = (head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)) if len(head) > 3 else (1, 4)
    if version == 1 or layer == 4 or head[0] != 0xFF or head[1] < 0xE0 or (rate := head[2] >> 2 & 3) == 3:
        return None
    hz, slot = _HZ[rate] // _DIVISORS[version], 4 if layer == 1 else 1
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    sizes = [0] * 256
    for index, kbps in enumerate((_RATES_1 if version == 3 else _RATES_2)[layer], 1):
        for low in range(rate << 2, (rate << 2) + 4):  # its second bit says whether the frame is a slot longer
            sizes[index << 4 | low] = (samples * kbps * 125 // slot // hz + (low >> 1 & 1)) * slot
    return _Stream(head[1] | 1, tuple(sizes), samples) if sizes[head[2]] else None


def _promise(head: bytes) -> _Promise | None:
    """Reads the Xing or VBRI header in a first frame of layer III; None if there is none."""
    if head[1] >> 1 & 3 != 1:
        return None
    mono, mpeg1 = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    mark = 4 + (9, 17, 32)[mpeg1 + (not mono)]  # after the side information
    if head[mark : mark + 4] in (b"Xing", b"Info"):
        flags, *numbers = (int.from_bytes(head[mark + n : mark + n + 4]) for n in (4, 8, 12))
        frames = numbers.pop(0) if flags & 1 else 0
        return _Promise(frames, numbers[0] if flags & 2 else 0, vbri=False)
    if head[36:40] == b"VBRI":
        return _Promise(int.from_bytes(head[50:54]), 0, vbri=True)
    return None


def _walk(file: BinaryIO, stream: _Stream, start: int, end: int) -> tuple[int, int]:
    """Goes from header to header; returns the number of frames, and where the last one ends according to its header."""
    file.seek(start)
    kind, sizes = stream.kind, stream.sizes
    block, at, base, frames = b"", 0, start, 0
    while base + at < end:
        if at + 4 > len(block):
            rest = block[at:]
            base += (passed := len(block) - len(rest))
            block, at = rest + file.read(_BLOCK), at - passed
        if len(block) < at + 4 or block[at] != 0xFF or block[at + 1] | 1 != kind or not (size := sizes[block[at + 2]]):
            break
        frames += 1
        at += size
    return frames, base + at
