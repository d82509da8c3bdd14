"""Reading what libsndfile knows: wav, aiff, flac, ogg, mp3 and their kin.

`tfpipe.audio.reader` calls this; use that.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile

from tfpipe.audio import mp3
from tfpipe.audio.info import AudioInfo
from tfpipe.errors import AudioError, os_error_message
from tfpipe.files.remote import is_remote, open_read

if TYPE_CHECKING:
    from tfpipe.features.log_mel import FloatArray  # librosa takes seconds to import, and a client needs none of it

# The length that libsndfile gives when it does not know it.
UNKNOWN_FRAMES = 2**63 - 1
# Samples, of all channels, decoded at a time: 32 MB.
_BLOCK_VALUES = 2**22
# The same for formats that are decoded from their start, and how much of the latest is kept: 16 MB.
_STEP_VALUES = 2**18
_KEPT_BLOCKS = 16
# libsndfile's note on a wav, aiff, au, w64 or rf64 that is shorter than its header says; programs
# that write into a pipe cannot know the size and put the largest number there.
_CUT = re.compile(r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 0x7FFFF000
# Most frames in an Ogg page: 255 packets of half the largest Vorbis block.
_VORBIS_PAGE = 255 * 4096
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
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
    """A file held open.

    Most formats are read from any place. In Ogg a second seek may lead
    elsewhere than the same one in a file just opened (Vorbis), or to other
    roundings (Opus): each read opens it anew and seeks once. After a seek in MP3
    libmpg123 lacks the bits that frames share with earlier ones, and rounds by
    what it decoded before: MP3, and what cannot seek (GSM), is decoded from the
    start, once for all reads that go forward; the latest part is kept for reads
    that overlap. Of an MP3 that does not give its length libsndfile would read
    as much as it estimates; `tfpipe.audio.mp3` makes it read all frames.

    Args:
        path: local path or URL.
        info: what an earlier decoder of the file found; checks the file when None.

    Attributes:
        info: what the file is; its `frames` may be `UNKNOWN_FRAMES`.

    Raises:
        AudioError: undecodable, unreadable, damaged or cut.
    """

    def __init__(self, path: str | os.PathLike[str], info: AudioInfo | None = None) -> None:
        self._path = path
        self._sound: _Sound | None = None
        self._kept: deque[FloatArray] = deque()
        self._kept_from = 0
        try:
            self._source = _Source(path)
        except OSError as error:
            raise AudioError("unreadable", os_error_message(error, os.fspath(path))) from error
        try:
            sound = self._sound = self._source.open()
            self._forward_only = not sound.can_seek or sound.subtype.startswith("MPEG")
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

    def frames(self, first: int, count: int) -> Iterator[FloatArray]:
        """Yields `[n, channels]` float64 blocks, `count` frames from `first`, fewer where the file ends.

        Raises:
            AudioError: damaged there, or out of reach.
        """
        if count <= 0:
            return
        read = self._forward if self._forward_only else self._from_anywhere
        try:
            for block in read(first, count):
                self._source.raise_error()
                yield block
            self._source.raise_error()
        except _ERRORS as error:
            self._drop()  # a decoder that stumbled may go on otherwise than a new one
            self._source.raise_error()
            if isinstance(error, OSError):
                raise AudioError("unreadable", os_error_message(error, os.fspath(self._path))) from error
            raise AudioError("damaged", f"{self._path}: damaged near frame {first} ({reason(error)})") from error

    def close(self) -> None:
        """Closes the file."""
        self._drop()
        self._source.close()

    def _from_anywhere(self, first: int, count: int) -> Iterator[FloatArray]:
        if self.info.format.startswith("OGG"):
            self._drop()
        sound = self._opened()
        # Within the last Ogg page libsndfile lands beside the frame by what the end is cut by.
        place = min(first, max(0, sound.frames - _VORBIS_PAGE)) if sound.subtype == "VORBIS" else first
        if place != sound.tell():
            sound.seek(place)
        step = max(1, _BLOCK_VALUES // self.info.channels)
        for start in range(place, first, step):
            sound.read(min(step, first - start))
        for start in range(0, count, step):
            yield sound.read(min(step, count - start), dtype="float64", always_2d=True)

    def _forward(self, first: int, count: int) -> Iterator[FloatArray]:
        if first < self._kept_from:
            self._drop()
        place = self._kept_from
        for block in self._blocks():
            part = block[max(0, first - place) : max(0, first + count - place)]
            place += len(block)
            if len(part):
                yield part.astype(np.float64)
            if place >= first + count:
                return

    def _blocks(self) -> Iterator[FloatArray]:
        """Yields what is kept, then decodes on; float32 holds all that such a format can."""
        place = self._kept_from
        for block in tuple(self._kept):
            place += len(block)
            yield block
        step = max(1, _STEP_VALUES // self.info.channels)
        # libsndfile may estimate more than `info` counts; after the last frame it would stumble over what follows.
        while len(block := self._opened().read(min(step, self.info.frames - place), dtype="float32", always_2d=True)):
            place += len(block)
            self._kept.append(block)
            if len(self._kept) > _KEPT_BLOCKS:
                self._kept_from += len(self._kept.popleft())
            yield block

    def _read_all_frames(self) -> None:
        """Makes libsndfile read what `info` counts, where it estimates another length.

        Raises:
            AudioError: it does not read as much even so.
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
    """A file that `read` does not seek in: after each read soundfile seeks to where it is, which MP3 does not bear."""

    def seekable(self) -> bool:
        return False

    @property
    def can_seek(self) -> bool:
        return super().seekable()


class _Source:
    """What libsndfile opens: a local path, or a file object for a URL.

    libsndfile takes an error of a file object for the end of the file; here it is kept to be raised.

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
        """Shows libsndfile an MP3 as `mp3.open_frames` does, from the next `open` on."""
        self._file = mp3.open_frames(self._file or open_read(self._path), samples)

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

    def _kept(self, call: Callable[[BinaryIO], Any], otherwise: Any) -> Any:
        if self._file is None or self._error is not None:
            return otherwise
        try:
            return call(self._file)
        except Exception as error:  # each store has errors of its own
            self._error = error
            return otherwise


def reason(error: Exception) -> str:
    """Returns the library's own words without the path it repeats."""
    words = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return "Format not recognised" if "is not a regular file" in words else words  # what it says of a bad mp3


def _inspect(path: str | os.PathLike[str], sound: _Sound) -> AudioInfo:
    """Reads what the header says.

    Raises:
        AudioError: the file is cut or its pages are damaged.
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
                _require_whole_pages(path, file)
            else:
                frames = mp3.count_samples(path, file) or frames
    return AudioInfo(
        sample_rate=sound.samplerate,
        channels=sound.channels,
        frames=frames,
        seconds=frames / sound.samplerate if sound.samplerate else 0.0,
        format=f"{sound.format}/{sound.subtype}",
    )


def _require_whole_pages(path: str | os.PathLike[str], file: BinaryIO) -> None:
    """Checks an Ogg file's pages: decoders pass over damage, a missing end, and all but the first of a chain.

    Format: RFC 3533. Its CRC-32 is that of zlib with the bits of each byte in reverse.

    Raises:
        AudioError: a page is damaged or cut, a stream's last page is missing, or another stream follows.
    """
    ended: dict[bytes, bool] = {}
    while head := file.read(27):
        table = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(table))
        if head[:4] != b"OggS"[: len(head)]:
            raise AudioError("damaged", f"{path}: damaged before byte {file.tell()}")
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            raise AudioError("truncated", f"{path}: breaks off within its last part")
        page = (head[:22] + bytes(4) + head[26:] + table + body).translate(_REVERSED)
        if (zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big") != head[22:26].translate(_REVERSED):
            raise AudioError("damaged", f"{path}: damaged before byte {file.tell()}")
        begins, ends = head[5] & 2, head[5] & 4
        if begins and any(ended.values()):
            raise AudioError(
                "undecodable",
                f"{path}: holds recordings one after the other, of which only the first can be read; split it",
            )
        ended[head[14:18]] = bool(ends)
    if not all(ended.values()):
        raise AudioError("truncated", f"{path}: breaks off, the page that ends its stream is not there")
