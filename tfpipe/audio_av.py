"""Reading what libsndfile does not know: AAC, Opus, WMA, ALAC in m4a, mp4, webm, asf, adts, through FFmpeg.

`tfpipe.audio` calls this; use that. The demuxer is chosen here from the first
bytes and handed an open file: FFmpeg's own guess would also follow playlists
to other files and the web.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from tfpipe.audio import AudioInfo
from tfpipe.errors import AudioError
from tfpipe.storage import explain

DECODER = "ffmpeg"
# Decoded before what is wanted, so that a codec that builds on earlier frames has settled (Opus needs 80 ms).
_PREROLL_S = 0.5
# A time stamp that differs more from the count of samples is a gap, not rounding to ms.
_GAP_S = 0.05
# A codec's padding at the end may make the container's length this much too long.
_TAIL_S = 0.1
# Files are called cut when they are this much shorter than their container says.
_CUT_S = 0.5
_LENGTH_IS_EXACT = {"mov", "matroska", "asf"}


def container_of(path: str | os.PathLike[str]) -> str | None:
    """Returns FFmpeg's name of the container that a file's first bytes show, or None.

    Raises:
        AudioError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            if head[:3] == b"ID3" and len(head) > 9:  # a tag of 28-bit length before AAC
                file.seek(
                    10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
                )
                head = file.read(16)
    except OSError as error:
        raise AudioError("unreadable", explain(error, os.fspath(path))) from error
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    if head[:4] == b"fLaC":  # libsndfile needs the length, which streamed FLAC does not have
        return "flac"
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


def has_audio(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file is a known container with sound in it."""
    try:
        with _opened(path):
            return True
    except AudioError:
        return False


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Reads a file's packets, without decoding them, for a length that no header can lie about.

    Raises:
        AudioError: not a known container, no sound in it, or it breaks off.
    """
    with _opened(path) as (container, stream):
        codec, end = stream.codec_context, 0
        for packet in container.demux(stream):
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0) - (stream.start_time or 0))
        seconds = float(end * stream.time_base) if stream.time_base else 0.0
        if container.format.name.split(",")[0] in _LENGTH_IS_EXACT:
            declared = _declared_s(container, stream)
            if declared is not None and seconds < declared - _CUT_S:
                raise AudioError("truncated", f"{path}: breaks off, {seconds:.1f} of {declared:.1f} s are there")
            seconds = min(seconds, declared or seconds)
        frames = round(seconds * codec.sample_rate)
        return AudioInfo(
            sample_rate=codec.sample_rate,
            channels=codec.channels,
            frames=frames,
            seconds=frames / codec.sample_rate if codec.sample_rate else 0.0,
            format=f"{container.format.name.split(',')[0]}/{codec.name}".upper(),
            decoder=DECODER,
        )


def read_blocks(
    path: str | os.PathLike[str], *, first: int, count: int, info: AudioInfo
) -> Iterator[NDArray[np.floating]]:
    """Yields `[n, channels]` blocks, `count` frames in all, from frame `first`.

    Gaps between packets and the codec's padding at the end read as zeros; fewer
    frames come when the file breaks off.

    Raises:
        AudioError: damaged there.
    """
    done, rate = first, info.sample_rate
    with _opened(path) as (container, stream):
        for position, frame in _frames(container, stream, first=first, rate=rate):
            if (frame.sample_rate, frame.layout.nb_channels) != (rate, info.channels):
                raise AudioError("damaged", f"{path}: changes its rate or channels near frame {position}")
            if position >= first + count:
                break
            if position > done:
                yield np.zeros((position - done, info.channels))
                done = position
            samples = _samples(frame)[done - position : first + count - position]
            done += len(samples)
            yield samples
    if 0 < (missing := first + count - done) <= _TAIL_S * rate:
        yield np.zeros((missing, info.channels))


def _frames(
    container: InputContainer, stream: AudioStream, *, first: int, rate: int
) -> Iterator[tuple[int, AudioFrame]]:
    """Yields decoded frames that end after frame `first`, each with its place in the file.

    Matroska and ASF round time stamps to ms. Places are therefore counted in
    samples, and after a seek put on the grid that the file's first frames show.
    """

    def stamp(frame: AudioFrame) -> int | None:
        if frame.pts is None or frame.time_base is None or stream.time_base is None:
            return None
        return round(float(frame.pts * frame.time_base - (stream.start_time or 0) * stream.time_base) * rate)

    place: int | None = 0
    head: list[AudioFrame] = []
    if first > 2 * _PREROLL_S * rate and stream.time_base:
        head = [frame for _, frame in zip(range(2), container.decode(stream), strict=False)]
        wanted = (first / rate - _PREROLL_S) / float(stream.time_base) + (stream.start_time or 0)
        container.seek(int(wanted), stream=stream)
        place = None
    for frame in container.decode(stream):
        stamped = stamp(frame)
        if place is None and stamped is not None:
            place = stamped
            if len(head) == 2:
                grid, step = (stamp(head[0]) or 0) + head[0].samples, head[1].samples
                on_grid = grid + round((stamped - grid) / step) * step
                place = on_grid if abs(on_grid - stamped) <= 0.002 * rate else stamped
            if place > first:
                raise ValueError(f"its index leads past frame {first}")
        elif place is not None and stamped is not None and abs(stamped - place) > _GAP_S * rate:
            place = stamped
        if place is None:
            continue
        if place + frame.samples > first:
            yield place, frame
        place += frame.samples


def _samples(frame: AudioFrame) -> NDArray[np.floating]:
    """Returns `[n, channels]`, full scale 1.0."""
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data - 128.0) / 128.0
    return data / float(2 ** (8 * data.itemsize - 1)) if data.dtype.kind == "i" else data.astype(np.float64)


def _declared_s(container: InputContainer, stream: AudioStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Opens a file's first sound track; FFmpeg's errors in the block become an `AudioError`."""
    if (name := container_of(path)) is None:
        raise AudioError("undecodable", f"{path}: not audio that can be decoded (format not recognised)")
    what = "undecodable"
    try:
        with open(path, "rb") as file, av.open(file, mode="r", format=name, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError("undecodable", f"{path}: has no sound track")
            stream = container.streams.audio[0]
            if (
                stream.codec_context is None
                or not stream.codec_context.sample_rate
                or not stream.codec_context.channels
            ):
                raise AudioError("bad_header", f"{path}: says neither its sample rate nor its channels")
            what = "damaged"
            yield container, stream
    except (av.error.FFmpegError, ValueError, ArithmeticError) as error:
        raise AudioError(
            what, f"{path}: cannot be decoded (FFmpeg: {getattr(error, 'strerror', None) or error})"
        ) from error
    except OSError as error:
        raise AudioError("unreadable", explain(error, os.fspath(path))) from error
