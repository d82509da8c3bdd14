"""Reading wav, aiff, flac, ogg, mp3 and the other formats that libsndfile knows.

`tfpipe.audio.reader` calls this module; use that one.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import soundfile

from tfpipe.audio import mp3, ogg
from tfpipe.audio.info import AudioInfo, Samples
from tfpipe.audio.segments import SEGMENT_S
from tfpipe.errors import AudioError, os_error_message
from tfpipe.files.remote import is_remote, open_read

# What libsndfile returns as the number of frames if it does not know it.
UNKNOWN_FRAMES = 2**63 - 1
# Codecs whose samples have more bits than float32 holds.
_WIDE = {"PCM_32", "DOUBLE", "ALAC_32"}
# Samples of all channels together that are decoded at a time: 16 MB as float32.
_BLOCK_VALUES = 2**22
# The same for formats that are decoded from the start, and how many of the latest blocks are kept: 16 MB.
_STEP_VALUES = 2**18
_KEPT_BLOCKS = 16
# libsndfile's log entry for a wav, aiff, au, w64 or rf64 that is shorter than its header says. Programs
# that write to a pipe do not know the size beforehand, and put the largest number in the header.
_CUT = re.compile(r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 0x7FFFF000
# The largest number of frames in an Ogg page: 255 packets of half the largest Vorbis block.
_VORBIS_PAGE = 255 * 4096
_Result = TypeVar("_Result")
_ERRORS = (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError)


def knows(path: str | os.PathLike[str]) -> bool:
    """Tells by content whether libsndfile can open a file."""
    try:
        source = _Source(path)
    except OSError:
        return False
    try:
        source.open().close()
        return True
    except _ERRORS:
        return False
    finally:
        source.close()


class SndfileDecoder:
    """An audio file that is open for reading with libsndfile; a `tfpipe.audio.info.Decoder`.

    A read must not depend on earlier reads. In most formats a seek ensures that. There are three exceptions:

    - Ogg: a second seek may end at another frame (Vorbis) or give other roundings (Opus) than
      the same seek in a file that was just opened. A read that does not continue the one before therefore opens the
      file again and seeks once. Opus is decoded in segments, because its roundings depend on where decoding began.
    - MP3: after a seek libmpg123 lacks the bits that frames share with earlier frames, and its
      rounding depends on what it decoded before. MP3 is therefore decoded from the start, once for
      all reads that go forward. The latest blocks are kept for reads that overlap. GSM, which
      cannot seek, is read in the same way.
    - MP3 without a length in its header: libsndfile would stop at the length that it estimates.
      `tfpipe.audio.mp3` makes it read all frames.

    Args:
        path: local path or URL.
        info: the file's properties, if they are known from an earlier decoder of this file. If None, the file is
            looked through for damage.

    Attributes:
        info: the file's properties; its `frames` may be `UNKNOWN_FRAMES`.

    Raises:
        AudioError: the file cannot be decoded or read, is damaged, or breaks off.
    """

    def __init__(self, path: str | os.PathLike[str], info: AudioInfo | None = None) -> None:
        self._path = path
        self._sound: _Sound | None = None
        self._kept: deque[Samples] = deque()
        self._kept_from = 0
        try:
            self._source = _Source(path)
        except OSError as error:
            raise AudioError("unreadable", os_error_message(error, os.fspath(path))) from error
        try:
            sound = self._sound = self._source.open()
            self._dtype = "float64" if sound.subtype in _WIDE else "float32"
            self._read_part: Callable[[int, int], Iterator[Samples]] = self._from_anywhere
            if sound.subtype == "OPUS":
                self._read_part = self._in_segments
            elif not sound.can_seek or sound.subtype.startswith("MPEG"):
                self._read_part = self._forward
            self.info = info or _inspect(path, sound)
            if sound.format == "MP3" and sound.frames != self.info.frames:
                self._read_all_frames()
        except _ERRORS as error:
            self.close()
            self._source.raise_error()
            if isinstance(error, OSError):
                raise AudioError("unreadable", os_error_message(error, os.fspath(path))) from error
            raise AudioError("undecodable", f"{path}: not audio that can be decoded ({reason(error)})") from error
        except BaseException:
            self.close()
            raise

    def frames(self, first: int, count: int) -> Iterator[Samples]:
        """Yields blocks `[n, channels]` with the `count` frames from `first`, fewer if the file ends before.

        Raises:
            AudioError: the file is damaged there or cannot be read.
        """
        if count <= 0:
            return
        try:
            for block in self._read_part(first, count):
                self._source.raise_error()
                yield block
            self._source.raise_error()
        except _ERRORS as error:
            self._drop()  # after an error a decoder may give other samples than a new one
            self._source.raise_error()
            if isinstance(error, OSError):
                raise AudioError("unreadable", os_error_message(error, os.fspath(self._path))) from error
            raise AudioError("damaged", f"{self._path}: damaged near frame {first} ({reason(error)})") from error

    def close(self) -> None:
        """Closes the file."""
        self._drop()
        self._source.close()

    def _from_anywhere(self, first: int, count: int) -> Iterator[Samples]:
        if first != (sound := self._opened()).tell():
            if self.info.format.startswith("OGG"):
                self._drop()
                sound = self._opened()
            # A seek into the last Ogg page is off by the number of frames that are cut from the page's end. Seek to
            # before that page, and decode from there.
            is_vorbis = sound.subtype == "VORBIS"
            self._go(first, seek_to=min(first, max(0, sound.frames - _VORBIS_PAGE)) if is_vorbis else first)
        step = self._step()
        for start in range(0, count, step):
            yield sound.read(min(step, count - start), dtype=self._dtype, always_2d=True)

    def _in_segments(self, first: int, count: int) -> Iterator[Samples]:
        size, end = SEGMENT_S * self.info.sample_rate, first + count
        while first < end:
            if first != self._opened().tell() or (first and not first % size):
                self._drop()
                self._go(first, seek_to=first - first % size)
            wanted = min(end - first, size - first % size, self._step())
            yield (block := self._opened().read(wanted, dtype=self._dtype, always_2d=True))
            if len(block) < wanted:
                return
            first += wanted

    def _go(self, first: int, *, seek_to: int) -> None:
        """Seeks to a frame, and decodes from there up to frame `first`."""
        sound, step = self._opened(), self._step()
        if seek_to != sound.tell():
            sound.seek(seek_to)
        for start in range(seek_to, first, step):
            sound.read(min(step, first - start), dtype=self._dtype)

    def _step(self) -> int:
        return max(1, _BLOCK_VALUES // self.info.channels)

    def _forward(self, first: int, count: int) -> Iterator[Samples]:
        if first < self._kept_from:
            self._drop()
        place = self._kept_from
        for block in self._blocks():
            part = block[max(0, first - place) : max(0, first + count - place)]
            place += len(block)
            if len(part):
                yield part
            if place >= first + count:
                return

    def _blocks(self) -> Iterator[Samples]:
        """Yields the kept blocks, then decodes further ones; float32 is exact enough for these formats."""
        place = self._kept_from
        for block in tuple(self._kept):
            place += len(block)
            yield block
        step = max(1, _STEP_VALUES // self.info.channels)
        # libsndfile may estimate more frames than there are. It must not decode the zeros or tags behind the last one.
        while len(block := self._opened().read(min(step, self.info.frames - place), dtype="float32", always_2d=True)):
            place += len(block)
            self._kept.append(block)
            if len(self._kept) > _KEPT_BLOCKS:
                self._kept_from += len(self._kept.popleft())
            yield block

    def _read_all_frames(self) -> None:
        """Makes libsndfile read as many frames as `info` says, although it estimates another number.

        Raises:
            AudioError: it still reads fewer.
        """
        self._drop()
        self._source.show_frames(self.info.frames)
        if (shown := self._opened().frames) < (there := self.info.frames):
            raise AudioError("undecodable", f"{self._path}: only {shown} of {there} samples can be read; convert it")

    def _opened(self) -> _Sound:
        self._sound = self._sound or self._source.open()
        return self._sound

    def _drop(self) -> None:
        if self._sound is not None:
            self._sound.close()
        self._sound = None
        self._kept.clear()
        self._kept_from = 0


class _Sound(soundfile.SoundFile):
    """A file that claims to be not seekable; `can_seek` tells the truth.

    After each read of a seekable file soundfile seeks to the current position, which changes what MP3 decodes next.
    """

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        return bool(super().seekable())


class _Source:
    """What libsndfile opens: a local path, or a file object for a URL.

    libsndfile takes an error of a file object for the end of the file. The error is therefore kept, and
    `raise_error` raises it.

    Raises:
        OSError: the URL cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._file: BinaryIO | None = open_read(path) if is_remote(path) else None
        self._error: Exception | None = None

    def open(self) -> _Sound:
        if self._file is None:
            return _Sound(os.fsencode(self._path))
        self._file.seek(0)
        return _Sound(self)

    def show_frames(self, samples: int) -> None:
        """Makes the next `open` read the MP3 through `mp3.open_frames`."""
        self._file = self._file or open_read(self._path)  # from here on `close` closes it
        self._file = mp3.open_frames(self._file, samples)

    def raise_error(self) -> None:
        if self._error is not None:
            raise AudioError("unreadable", f"{self._path}: cannot be read ({self._error})") from self._error

    def read(self, size: int) -> bytes:
        return self._kept(lambda file: file.read(size), b"")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._kept(lambda file: file.seek(offset, whence), -1)

    def tell(self) -> int:
        return self._kept(lambda file: file.tell(), -1)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _kept(self, call: Callable[[BinaryIO], _Result], otherwise: _Result) -> _Result:
        if self._file is None or self._error is not None:
            return otherwise
        try:
            return call(self._file)
        except Exception as error:  # each store has its own types of errors
            self._error = error
            return otherwise


def reason(error: Exception) -> str:
    """Returns libsndfile's message without the path."""
    words = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return "Format not recognised" if "is not a regular file" in words else words  # its message for a bad mp3


def _inspect(path: str | os.PathLike[str], sound: _Sound) -> AudioInfo:
    """Finds the file's properties, and looks for a missing end where libsndfile does not report one.

    Raises:
        AudioError: the file breaks off, or an Ogg page is damaged.
    """
    cut = _CUT.search(sound.extra_info)
    if cut and sound.frames != UNKNOWN_FRAMES and int(cut[2]) < int(cut[1]) < _UNKNOWN_SIZE:
        raise AudioError(
            "truncated", f"{path}: breaks off, {cut[2]} of the {cut[1]} bytes that its header promises are there"
        )
    frames = sound.frames
    if sound.format in ("OGG", "MP3"):
        with open_read(path) as file:
            if sound.format == "OGG":
                ogg.require_whole_pages(path, file)
            else:
                frames = mp3.count_samples(path, file) or frames
    return AudioInfo(
        sample_rate=sound.samplerate,
        channels=sound.channels,
        frames=frames,
        seconds=frames / sound.samplerate if sound.samplerate else 0.0,
        format=f"{sound.format}/{sound.subtype}",
    )
