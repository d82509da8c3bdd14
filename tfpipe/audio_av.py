"""Reading what libsndfile does not know: AAC, Opus, WMA, ALAC in m4a, mp4, webm, asf, adts, through FFmpeg.

`tfpipe.audio` calls this; use that. The demuxer is chosen here from the first
bytes and handed an open file: FFmpeg's own guess would also follow playlists
to other files and the web.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

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

from tfpipe.audio import AudioInfo
from tfpipe.errors import AudioError
from tfpipe.remote import open_read
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
# (container, codec) that stay open: seeks find the very packet, and a decoder needs no more than `_decoder` gives it.
# In the others a seek leads where earlier ones have been, or reading the header again costs next to nothing.
_STAY_OPEN = {("mov", "aac"), ("mov", "alac"), ("aac", "aac")}


def container_of(path: str | os.PathLike[str]) -> str | None:
    """Returns FFmpeg's name of the container that a file's first bytes show, or None.

    Raises:
        AudioError: the file cannot be read.
    """
    with _explained(path, "undecodable"), open_read(path) as file:
        return _container_of(file)


def has_audio(path: str | os.PathLike[str]) -> bool:
    """Tells whether a file is a known container with sound in it."""
    try:
        with _explained(path, "undecodable"), open_read(path) as file, _opened(file, path):
            return True
    except AudioError:
        return False


class Track:
    """A file held open.

    What a read gives follows from the place asked for, whatever was read before:
    where the container stays open, each read takes a new decoder and feeds it
    from the last packet that starts before the place; the others are opened anew.

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
        self._kept: tuple[InputContainer, AudioStream] | None = None
        self._start = 0
        self._head: list[Packet] | None = None
        with contextlib.ExitStack() as files, _explained(path, "undecodable"):
            self._file = files.enter_context(open_read(path))
            with contextlib.ExitStack() as opened:
                container, stream = opened.enter_context(_opened(self._file, path))
                packets = container.demux(stream)
                first = next(packets)
                self.info = info or _measure(path, container, stream, itertools.chain([first], packets))
                if (_name(container), stream.codec_context.name) in _STAY_OPEN:
                    self._kept, self._start = (container, stream), first.pts or 0
                    files.push(opened.pop_all())
            self._stack = files.pop_all()

    def frames(self, first: int, count: int) -> Iterator[NDArray[np.floating]]:
        """Yields `[n, channels]` blocks, `count` frames in all, from frame `first`.

        Gaps between packets and the codec's padding at the end read as zeros; fewer
        frames come when the file breaks off.

        Raises:
            AudioError: damaged there.
        """
        done, rate, channels = first, self.info.sample_rate, self.info.channels
        with _explained(self._path, "damaged"):
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
        if 0 < (missing := first + count - done) <= _TAIL_S * rate:
            yield np.zeros((missing, channels))

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def _placed(self, first: int) -> Iterator[tuple[int, AudioFrame]]:
        """Yields decoded frames that end after frame `first`, each with its place in the file."""
        with contextlib.nullcontext(self._kept) if self._kept else _opened(self._file, self._path) as opened:
            stream, rate = opened[1], self.info.sample_rate
            if first <= 2 * _PREROLL_S * rate or not stream.time_base:
                yield from _counted(self._decoded(*opened), [], stream, first=first, rate=rate, place=0)
            else:
                wanted = int((first / rate - _PREROLL_S) / float(stream.time_base) + (stream.start_time or 0))
                head, frames = self._sought(*opened, wanted)
                yield from _counted(frames, head, stream, first=first, rate=rate, place=None)

    def _decoded(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        """Yields all frames."""
        if not self._kept:
            return container.decode(stream)
        container.seek(self._start, stream=stream)
        return _decode(_decoder(stream), container.demux(stream))

    def _sought(
        self, container: InputContainer, stream: AudioStream, wanted: int
    ) -> tuple[list[AudioFrame], Iterator[AudioFrame]]:
        """Returns the file's first two frames, and those from a time stamp on, or from somewhat before."""
        if not self._kept:
            head = list(itertools.islice(container.decode(stream), 2))
            container.seek(wanted, stream=stream)
            return head, container.decode(stream)
        decoder = _decoder(stream)
        if self._head is None:
            container.seek(self._start, stream=stream)
            self._head = _packets_of_two_frames(decoder, container.demux(stream))
            decoder = _decoder(stream)
        head = list(itertools.islice(_decode(decoder, self._head), 2))
        decoder.flush_buffers()
        container.seek(wanted, stream=stream)
        return head, _decode(decoder, _from(wanted, container.demux(stream)))


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


def _counted(
    frames: Iterable[AudioFrame],
    head: list[AudioFrame],
    stream: AudioStream,
    *,
    first: int,
    rate: int,
    place: int | None,
) -> Iterator[tuple[int, AudioFrame]]:
    """Yields the frames that end after frame `first`, each with its place in the file.

    Matroska and ASF round time stamps to ms. Places are therefore counted in
    samples, and after a seek (no `place`) put on the grid that the file's first
    frames, `head`, show.
    """

    def stamp(frame: AudioFrame) -> int | None:
        if frame.pts is None or frame.time_base is None or stream.time_base is None:
            return None
        return round(float(frame.pts * frame.time_base - (stream.start_time or 0) * stream.time_base) * rate)

    for frame in frames:
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


def _decoder(stream: AudioStream) -> AudioCodecContext:
    """Returns a decoder that has decoded nothing: flushing the stream's own would leave AAC's noise where it was."""
    ours, decoder = stream.codec_context, CodecContext.create(stream.codec_context.codec.name, "r")
    if not isinstance(decoder, AudioCodecContext):
        raise ValueError(f"{decoder.name} is no codec of sound")
    decoder.extradata, decoder.sample_rate, decoder.layout = ours.extradata, ours.sample_rate, ours.layout
    if stream.time_base:
        decoder.options = {"pkt_timebase": f"{stream.time_base.numerator}/{stream.time_base.denominator}"}
    return decoder


def _decode(decoder: AudioCodecContext, packets: Iterable[Packet]) -> Iterator[AudioFrame]:
    for packet in packets:
        yield from decoder.decode(packet)


def _packets_of_two_frames(decoder: AudioCodecContext, packets: Iterable[Packet]) -> list[Packet]:
    read, frames = [], 0
    for packet in packets:
        read.append(packet)
        frames += len(decoder.decode(packet))
        if frames >= 2:
            break
    return read


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
def _explained(path: str | os.PathLike[str], code: str) -> Iterator[None]:
    """Turns FFmpeg's and the file's errors in the block into an `AudioError`."""
    try:
        yield
    except (av.error.FFmpegError, ValueError, ArithmeticError) as error:
        raise AudioError(
            code, f"{path}: cannot be decoded (FFmpeg: {getattr(error, 'strerror', None) or error})"
        ) from error
    except OSError as error:
        raise AudioError("unreadable", explain(error, os.fspath(path))) from error
