"""Reading what libsndfile does not know: AAC, Opus, WMA, ALAC in m4a, mp4, webm, asf, adts, through FFmpeg.

`tfpipe.audio.reader` calls this; use that. The demuxer is chosen here from the first
bytes and handed an open file: FFmpeg's own guess would also follow playlists
to other files and the web.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import av
import av.error
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from tfpipe.audio.reader import AudioInfo
from tfpipe.errors import AudioError, os_error_message
from tfpipe.files.remote import open_read

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
# (container, codec) where a seek finds the very packet, whatever was read before.
_SEEKABLE = {("mov", "aac"), ("mov", "alac")}
# Those without an index, whose packets are read once in order; so many of the latest (95 s at 44.1 kHz) are kept.
_IN_ORDER = {("aac", "aac")}
_KEPT_PACKETS = 4096


def container_of(path: str | os.PathLike[str]) -> str | None:
    """Returns FFmpeg's name of the container that a file's first bytes show, or None.

    Raises:
        AudioError: the file cannot be read.
    """
    with _translate_ffmpeg_errors(path, "undecodable"), open_read(path) as file:
        return _container_of(file)


def has_audio(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file is a known container with sound in it."""
    try:
        with _translate_ffmpeg_errors(path, "undecodable"), open_read(path) as file, _opened(file, path):
            return True
    except AudioError:
        return False


class Track:
    """A file held open.

    What a read gives follows from the place asked for, whatever was read before:
    where the container stays open, each read takes a new decoder and feeds it
    from the last packet that starts before the place; other containers, where a
    seek leads by what was read, are opened anew, which costs little.

    Args:
        path: local path or URL.
        info: what an earlier `Track` of the file found. When None, all packets are read, without
            decoding them, for a length that no header can lie about.

    Attributes:
        info: what the file is.

    Raises:
        AudioError: not a known container, no sound in it, or it breaks off.
    """

    def __init__(self, path: str | os.PathLike[str], info: AudioInfo | None = None) -> None:
        self._path = path
        self._files, self._containers = contextlib.ExitStack(), contextlib.ExitStack()
        self._latest: _Latest | None = None
        self._head: list[Packet] = []
        try:
            with _translate_ffmpeg_errors(path, "undecodable"):
                self._file = self._files.enter_context(open_read(path))
                self._container, self._stream = self._open()
                self._tick, self._zero = self._stream.time_base, self._stream.start_time or 0
                packets = self._container.demux(self._stream)
                first = next(packets)
                self._first = first.pts or 0
                self.info = info or _measure(path, self._container, self._stream, itertools.chain([first], packets))
                kind = _name(self._container), self._stream.codec_context.name
        except BaseException:
            self.close()
            raise
        self._seeks, self._in_order = kind in _SEEKABLE, kind in _IN_ORDER
        self._opens_anew = not self._seeks

    def frames(self, first: int, count: int) -> Iterator[NDArray[np.floating]]:
        """Yields `[n, channels]` blocks, `count` frames in all, from frame `first`.

        Gaps between packets and the codec's padding at the end read as zeros; fewer
        frames come when the file breaks off.

        Raises:
            AudioError: damaged there.
        """
        done, rate, channels = first, self.info.sample_rate, self.info.channels
        try:
            with _translate_ffmpeg_errors(self._path, "damaged"):
                for position, frame in self._placed(first):
                    if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                        raise AudioError("damaged", f"{self._path}: changes its rate or channels near frame {position}")
                    if position >= first + count:
                        break
                    if position > done:
                        yield np.zeros((position - done, channels))
                        done = position
                    samples = _samples(frame)[done - position : first + count - position]
                    done += len(samples)
                    yield samples
        except AudioError:
            self._opens_anew, self._latest = True, None  # who knows where FFmpeg stands now
            raise
        if 0 < (missing := first + count - done) <= _TAIL_S * rate:
            yield np.zeros((missing, channels))

    def close(self) -> None:
        """Closes the file."""
        self._containers.close()
        self._files.close()

    def _open(self) -> tuple[InputContainer, AudioStream]:
        self._containers.close()
        return self._containers.enter_context(_opened(self._file, self._path))

    def _placed(self, first: int) -> Iterator[tuple[int, AudioFrame]]:
        """Yields decoded frames that end after frame `first`, each with its place in the file.

        Matroska and ASF round time stamps to ms. Places are therefore counted in
        samples, and after a seek put on the grid that the file's first frames show.
        """
        rate, wanted, place = self.info.sample_rate, None, 0
        head: list[AudioFrame] | None = None
        if first > 2 * _PREROLL_S * rate and self._tick:
            wanted = int((first / rate - _PREROLL_S) / float(self._tick) + self._zero)
        decoder = self._begin(wanted if self._head else None)
        if wanted is not None:
            head, packets = _first_two(decoder, self._head or self._packets(None))
            self._head = packets if self._seeks or self._in_order else []
            decoder.flush_buffers()
        for packet in self._packets(wanted):
            for frame in decoder.decode(packet):
                stamped = self._stamp(frame)
                if head is not None:
                    if stamped is None:
                        continue
                    place, head = self._on_grid(stamped, head), None
                    if place > first:
                        raise ValueError(f"its index leads past frame {first}")
                elif stamped is not None and abs(stamped - place) > _GAP_S * rate:
                    place = stamped
                if place + frame.samples > first:
                    yield place, frame
                place += frame.samples

    def _begin(self, wanted: int | None) -> AudioCodecContext:
        """Makes the packets from a time stamp on (all for None) ready to be read; returns a decoder for them.

        The decoder has decoded nothing: flushing one would leave AAC's noise where it was.
        """
        if self._opens_anew and (self._latest is None or not self._latest.reaches(wanted)):
            self._container, self._stream = self._open()
            self._latest = _Latest(self._container.demux(self._stream)) if self._in_order else None
            self._opens_anew = not self._seeks
        ours = self._stream.codec_context
        if not (self._seeks or self._in_order):
            return ours
        decoder = cast(AudioCodecContext, CodecContext.create(ours.codec.name, "r"))
        decoder.extradata, decoder.sample_rate, decoder.layout = ours.extradata, ours.sample_rate, ours.layout
        if self._tick:
            decoder.options = {"pkt_timebase": f"{self._tick.numerator}/{self._tick.denominator}"}
        return decoder

    def _packets(self, wanted: int | None) -> Iterable[Packet]:
        """Returns the packets from a time stamp on, or from somewhat before; all for None."""
        if self._latest is not None:
            return self._latest if wanted is None else _from(wanted, self._latest)
        if wanted is not None or self._seeks:
            self._container.seek(self._first if wanted is None else wanted, stream=self._stream)
        packets = self._container.demux(self._stream)
        return _from(wanted, packets) if self._seeks and wanted is not None else packets

    def _stamp(self, frame: AudioFrame) -> int | None:
        if frame.pts is None or frame.time_base is None or self._tick is None:
            return None
        return round(float(frame.pts * frame.time_base - self._zero * self._tick) * self.info.sample_rate)

    def _on_grid(self, stamped: int, head: list[AudioFrame]) -> int:
        if len(head) < 2:
            return stamped
        grid, step = (self._stamp(head[0]) or 0) + head[0].samples, head[1].samples
        place = grid + round((stamped - grid) / step) * step
        return place if abs(place - stamped) <= 0.002 * self.info.sample_rate else stamped


class _Latest:
    """A container's packets from the first, each read once for all who go forward; keeps the latest."""

    def __init__(self, packets: Iterator[Packet]) -> None:
        self._rest = packets
        self._kept: deque[Packet] = deque()
        self._from_first = True

    def reaches(self, wanted: int | None) -> bool:
        """Tells whether the packets from a time stamp on (all for None) can still be had."""
        return self._from_first or (wanted is not None and (self._kept[0].pts or 0) <= wanted)

    def __iter__(self) -> Iterator[Packet]:
        yield from tuple(self._kept)
        for packet in self._rest:
            self._kept.append(packet)
            if len(self._kept) > _KEPT_PACKETS:
                self._kept.popleft()
                self._from_first = False
            yield packet


def _measure(
    path: str | os.PathLike[str], container: InputContainer, stream: AudioStream, packets: Iterable[Packet]
) -> AudioInfo:
    codec, end = stream.codec_context, 0
    for packet in packets:
        if packet.pts is not None:
            end = max(end, packet.pts + (packet.duration or 0) - (stream.start_time or 0))
    seconds = float(end * stream.time_base) if stream.time_base else 0.0
    if _name(container) in _LENGTH_IS_EXACT:
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
        format=f"{_name(container)}/{codec.name}".upper(),
        decoder=DECODER,
    )


def _first_two(decoder: AudioCodecContext, packets: Iterable[Packet]) -> tuple[list[AudioFrame], list[Packet]]:
    """Returns the first two frames and the packets that they took."""
    frames: list[AudioFrame] = []
    read = []
    for packet in packets:
        read.append(packet)
        frames += decoder.decode(packet)
        if len(frames) >= 2:
            break
    return frames[:2], read


def _from(wanted: int, packets: Iterable[Packet]) -> Iterator[Packet]:
    """Yields the packets from the last one that starts by a time stamp: how far before it a seek ends may vary."""
    last, begun = None, False
    for packet in packets:
        if not begun and packet.pts is not None and packet.pts <= wanted:
            last = packet
            continue
        if last is not None and not begun:
            yield last
        begun = True
        yield packet


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


def _name(container: InputContainer) -> str:
    return container.format.name.split(",")[0]


@contextlib.contextmanager
def _opened(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Opens a file's first sound track.

    Raises:
        AudioError: there is none.
    """
    if (name := _container_of(file)) is None:
        raise AudioError("undecodable", f"{path}: not audio that can be decoded (format not recognised)")
    file.seek(0)
    with av.open(file, mode="r", format=name, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise AudioError("undecodable", f"{path}: has no sound track")
        codec = container.streams.audio[0].codec_context
        if codec is None or not codec.sample_rate or not codec.channels:
            raise AudioError("bad_header", f"{path}: says neither its sample rate nor its channels")
        yield container, container.streams.audio[0]


def _container_of(file: BinaryIO) -> str | None:
    file.seek(0)
    head = file.read(16)
    if head[:3] == b"ID3" and len(head) > 9:  # a tag of 28-bit length before AAC
        file.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
        head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"\x30\x26\xb2\x75":
        return "asf"
    if head[:4] == b"fLaC":  # libsndfile needs the length, which streamed FLAC does not have
        return "flac"
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


@contextlib.contextmanager
def _translate_ffmpeg_errors(path: str | os.PathLike[str], code: str) -> Iterator[None]:
    """Turns FFmpeg's and the file's errors in the block into an `AudioError`."""
    try:
        yield
    except (av.error.FFmpegError, ValueError, ArithmeticError) as error:
        raise AudioError(
            code, f"{path}: cannot be decoded (FFmpeg: {getattr(error, 'strerror', None) or error})"
        ) from error
    except OSError as error:
        raise AudioError("unreadable", os_error_message(error, os.fspath(path))) from error
