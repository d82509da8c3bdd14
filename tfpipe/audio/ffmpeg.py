"""Reading what libsndfile does not know, through FFmpeg: AAC, Opus, WMA and ALAC in m4a, mp4, webm, asf or adts.

`tfpipe.audio.reader` calls this module; use that one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, cast

import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet

from tfpipe.audio.containers import open_container, translate_ffmpeg_errors
from tfpipe.audio.info import AudioInfo, Samples
from tfpipe.audio.segments import SEGMENT_S, Segment
from tfpipe.errors import AudioError
from tfpipe.files.remote import open_read

# Decoding starts this much before a segment, because a codec may build on earlier frames (Opus needs 80 ms).
_PREROLL_S = 0.5
# A time stamp that differs from the count of samples by more than this is a gap, not rounding to ms.
_GAP_S = 0.05
# A codec's padding at the end may make the container's length too long by this much.
_TAIL_S = 0.1
# A file that is shorter than its container says by more than this is called truncated.
_CUT_S = 0.5
_LENGTH_IS_EXACT = {"mov", "matroska", "asf"}
# (container, codec) in which a seek finds the same packet whatever was read before.
_SEEKABLE = {("mov", "aac"), ("mov", "alac")}
# (container, codec) without an index: the packets are read once, in order.
_IN_ORDER = {("aac", "aac")}
# The latest packets of such a container are kept: 95 s at 44.1 kHz.
_KEPT_PACKETS = 4096


class FfmpegDecoder:
    """An audio file that is open for reading with FFmpeg; a `tfpipe.audio.info.Decoder`.

    A read must not depend on earlier reads. Each segment of 30 s is therefore decoded
    on its own, from a place a little before it, and a read that begins inside a segment decodes it
    from its start. A read that follows the one before goes on where that one ended.

    If a seek in the container always finds the same packet, the container stays
    open, and each segment gets a new decoder, which is fed from the last packet that starts
    before the segment. In other containers the result of a seek depends on what was read before: they are
    opened again for each segment, which takes little time.

    Args:
        path: local path or URL.
        info: the file's properties, if they are known from an earlier decoder of this file. If None, all
            packets are read but not decoded, because the length in the header may be wrong.

    Attributes:
        info: the file's properties.

    Raises:
        AudioError: not a known container, no sound track in it, or it breaks off.
    """

    def __init__(self, path: str | os.PathLike[str], info: AudioInfo | None = None) -> None:
        self._path = path
        self._files, self._containers = contextlib.ExitStack(), contextlib.ExitStack()
        self._latest: _Latest | None = None
        self._head: list[Packet[Any]] = []
        self._segment: Segment | None = None
        self._unit: Fraction | None = None
        try:
            with translate_ffmpeg_errors(path, "undecodable"):
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

    def frames(self, first: int, count: int) -> Iterator[Samples]:
        """Yields float32 blocks `[n, channels]` with the `count` frames from `first`, fewer if the file breaks off.

        Gaps between packets are filled with zeros, and so is the end of the file if it is missing by no more than the
        codec's padding.

        Raises:
            AudioError: the file is damaged there or cannot be read.
        """
        place, end, size = first, first + count, SEGMENT_S * self.info.sample_rate
        try:
            with translate_ffmpeg_errors(self._path, "damaged"):
                while place < end:
                    stop = min(end, place - place % size + size)
                    for block in self._from(place).read(place, stop):
                        place += len(block)
                        yield block
                    if place < stop:
                        break
        except AudioError:
            # FFmpeg's position is unknown after an error.
            self._opens_anew, self._latest, self._segment = True, None, None
            raise
        if 0 < (missing := end - place) <= _TAIL_S * self.info.sample_rate:
            yield np.zeros((missing, self.info.channels), np.float32)

    def _from(self, place: int) -> Segment:
        """Returns the segment that holds a frame, and that has not been decoded beyond that frame."""
        size = SEGMENT_S * self.info.sample_rate
        start = place - place % size
        if self._segment is None or self._segment.start != start or self._segment.place > place:
            self._segment = Segment(start, self._blocks(start, start + size))
        return self._segment

    def _blocks(self, start: int, stop: int) -> Iterator[Samples]:
        """Decodes from the start of a segment to its end or a little further, without gaps."""
        done, rate, channels = start, self.info.sample_rate, self.info.channels
        for position, frame in self._placed(start):
            if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                raise AudioError("damaged", f"{self._path}: changes its rate or channels near frame {position}")
            while done < min(position, stop):
                gap = min(position - done, stop - done, rate)
                yield np.zeros((gap, channels), np.float32)
                done += gap
            samples = _samples(frame)[max(0, done - position) :]
            done += len(samples)
            yield samples

    def close(self) -> None:
        """Closes the file."""
        self._segment = None
        self._containers.close()
        self._files.close()

    def _open(self) -> tuple[InputContainer, AudioStream]:
        self._containers.close()
        return self._containers.enter_context(open_container(self._file, self._path))

    def _placed(self, first: int) -> Iterator[tuple[int, AudioFrame]]:
        """Yields the decoded frames that end after frame `first`, each with its place in the file.

        Matroska and ASF round time stamps to ms. Places are therefore counted in
        samples. After a seek the first place is rounded to the grid of codec frames,
        which the first two frames of the file give.
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
        """Makes the packets from a time stamp on ready to be read (all if None) and returns a new decoder for them.

        The decoder must be new, because flushing a used one does not reset the noise generator of AAC.
        """
        if self._opens_anew and (self._latest is None or not self._latest.reaches(wanted)):
            self._container, self._stream = self._open()
            self._latest = _Latest(self._container.demux(self._stream)) if self._in_order else None
            self._opens_anew = not self._seeks
        ours, self._unit = self._stream.codec_context, None
        if not (self._seeks or self._in_order):
            return ours
        decoder = cast(AudioCodecContext, CodecContext.create(ours.codec.name, "r"))
        decoder.extradata, decoder.sample_rate, decoder.layout = ours.extradata, ours.sample_rate, ours.layout
        if self._tick:
            decoder.options = {"pkt_timebase": f"{self._tick.numerator}/{self._tick.denominator}"}
        return decoder

    def _packets(self, wanted: int | None) -> Iterable[Packet[Any]]:
        """Returns the packets from a time stamp on, or from a little before; all if None."""
        if self._latest is not None:
            return self._latest if wanted is None else _from(wanted, self._latest)
        if wanted is not None or self._seeks:
            self._container.seek(self._first if wanted is None else wanted, stream=self._stream)
        packets = self._container.demux(self._stream)
        return _from(wanted, packets) if self._seeks and wanted is not None else packets

    def _stamp(self, frame: AudioFrame) -> int | None:
        """Returns a frame's place according to its time stamp."""
        # All frames of a decoder have the same unit of time, and asking for it takes a while.
        unit = self._unit = self._unit or frame.time_base
        if frame.pts is None or unit is None or self._tick is None:
            return None
        zero = self._zero * self._tick.numerator / self._tick.denominator
        return round((frame.pts * unit.numerator / unit.denominator - zero) * self.info.sample_rate)

    def _on_grid(self, stamped: int, head: list[AudioFrame]) -> int:
        if len(head) < 2:
            return stamped
        grid, step = (self._stamp(head[0]) or 0) + head[0].samples, head[1].samples
        place = grid + round((stamped - grid) / step) * step
        return place if abs(place - stamped) <= 0.002 * self.info.sample_rate else stamped


class _Latest:
    """The packets of a container, each read from it once; the latest are kept for reads that overlap."""

    def __init__(self, packets: Iterator[Packet[Any]]) -> None:
        self._rest = packets
        self._kept: deque[Packet[Any]] = deque()
        self._from_first = True

    def reaches(self, wanted: int | None) -> bool:
        """Tells whether the packets from a time stamp on (all if None) are kept or not yet read."""
        return self._from_first or (wanted is not None and (self._kept[0].pts or 0) <= wanted)

    def __iter__(self) -> Iterator[Packet[Any]]:
        yield from tuple(self._kept)
        for packet in self._rest:
            self._kept.append(packet)
            if len(self._kept) > _KEPT_PACKETS:
                self._kept.popleft()
                self._from_first = False
            yield packet


def _measure(
    path: str | os.PathLike[str], container: InputContainer, stream: AudioStream, packets: Iterable[Packet[Any]]
) -> AudioInfo:
    """Finds the file's properties; the length is the end of the last packet, or that of an exact header if shorter."""
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
        decoder="ffmpeg",
    )


def _first_two(
    decoder: AudioCodecContext, packets: Iterable[Packet[Any]]
) -> tuple[list[AudioFrame], list[Packet[Any]]]:
    """Returns the first two frames, and the packets that were decoded to get them."""
    frames: list[AudioFrame] = []
    read = []
    for packet in packets:
        read.append(packet)
        frames += decoder.decode(packet)
        if len(frames) >= 2:
            break
    return frames[:2], read


def _from(wanted: int, packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Yields the packets from the last one that starts at or before a time stamp.

    A seek may end at different packets before the time stamp; this makes the first one always the same.
    """
    last, begun = None, False
    for packet in packets:
        if not begun and packet.pts is not None and packet.pts <= wanted:
            last = packet
            continue
        if last is not None and not begun:
            yield last
        begun = True
        yield packet


def _samples(frame: AudioFrame) -> Samples:
    """Returns a decoded frame's samples `[n, channels]` as float32, full scale 1.0."""
    if frame.format.name == "fltp":  # that of AAC, Opus and WMA; `to_ndarray` takes several times as long
        planes = [np.frombuffer(memoryview(plane), np.float32, frame.samples) for plane in frame.planes]
        return np.stack(planes, axis=1)
    data = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128.0) / 128.0
    samples: Samples = data.astype(np.float32, copy=False)
    return samples * np.float32(2.0 ** (1 - 8 * data.itemsize)) if data.dtype.kind == "i" else samples


def _declared_s(container: InputContainer, stream: AudioStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _name(container: InputContainer) -> str:
    return container.format.name.split(",")[0]
