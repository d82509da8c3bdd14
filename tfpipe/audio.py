"""Reading recordings: probe, one window at a time, mono, resampled; and writing wav.

A window of a long file is read alone, with a margin on each side for the
resampler, so a ten-hour file costs the memory of one window. Loads no
TensorFlow.

The content decides the format, not the name. libsndfile reads wav (also
extensible, RF64, float), aiff, au, caf, w64, flac, alac in caf, ogg, opus and
mp3; what it does not know is left to FFmpeg (`tfpipe.audio_av`): m4a, mp4,
webm, mka, aac, wma, and flac that does not say its length. A window read alone
equals the same part of the file decoded whole: bit by bit for all of
libsndfile's formats but opus (1e-6 of full scale), and within 1e-5 for
FFmpeg's (measured in tests/tfpipe/test_audio.py). Two things are looser there:
where AAC stores only the level of a noise, each reading starts that noise
anew (the same way each time), and Matroska and ASF keep time to the
millisecond where packets vary in length.
"""

from __future__ import annotations

import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tfpipe.errors import AudioError, TfpipeError
from tfpipe.spec import FeatureSpec
from tfpipe.storage import explain, explain_os_errors

if TYPE_CHECKING:
    from tfpipe.features import FloatArray  # librosa takes seconds to import, and a client needs none of it

# Without a margin the resampler's edges differ by up to 0.03; with it by 5e-5.
_MARGIN_S = 0.1
_MAX_CHANNELS = 256
_MAX_RATE = 1_000_000
_MAX_S = 7 * 86_400.0
# Samples, of all channels, decoded at a time: 32 MB.
_BLOCK_VALUES = 2**22
# libsndfile's note on a wav, aiff, au, w64 or rf64 that is shorter than its header says; programs
# that write into a pipe cannot know the size and put the largest number there.
_CUT = re.compile(r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 0x7FFFF000
# Most frames in an Ogg page: 255 packets of half the largest Vorbis block.
_VORBIS_PAGE = 255 * 4096
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_UNKNOWN_FRAMES = 2**63 - 1
_SOUNDFILE_ERRORS = (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError)
# The mean of the channels is taken unless it loses more than this against the loudest one.
_CANCELLED_DB = -20.0


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        sample_rate: Hz.
        channels: number of interleaved channels.
        frames: samples per channel.
        seconds: length in s.
        format: container and codec, such as `WAV/PCM_16`.
        decoder: `libsndfile` or `ffmpeg`.
    """

    sample_rate: int
    channels: int
    frames: int
    seconds: float
    format: str
    decoder: str = "libsndfile"


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: not a regular file, unreadable, empty, or not audio.
    """
    _require_regular_file(path)
    info = _probe(path)
    if not (0 < info.sample_rate <= _MAX_RATE and 0 < info.channels <= _MAX_CHANNELS and info.seconds <= _MAX_S):
        raise AudioError(
            "bad_header",
            f"{path}: header says {info.channels} channels at {info.sample_rate} Hz for {info.seconds:.4g} s, "
            "which cannot be",
        )
    if info.frames <= 0:
        raise AudioError("empty", f"{path}: holds no samples")
    return info


def is_audio(path: str | os.PathLike[str]) -> bool:
    """Tells by content whether a decoder knows a regular file."""
    try:
        with soundfile.SoundFile(os.fsencode(path)):
            return True
    except _SOUNDFILE_ERRORS:
        from tfpipe import audio_av

        return audio_av.has_audio(path)


def read_window(
    path: str | os.PathLike[str], *, start_s: float, spec: FeatureSpec, info: AudioInfo | None = None
) -> FloatArray:
    """Reads one window: mono, at the spec's rate, zero-padded past the end of the file.

    Args:
        path: audio file.
        start_s: start of the window in s; put on the spec's sample grid.
        spec: gives rate and length.
        info: the file's `probe`, when the caller has it.

    Returns:
        `[spec.samples]` float64, full scale 1.0.

    Raises:
        AudioError: the file cannot be read, breaks off, or holds NaN or Inf there.
    """
    return read_span(
        path, start=round(start_s * spec.sample_rate), count=spec.samples, rate=spec.sample_rate, info=info
    )


def read_span(
    path: str | os.PathLike[str], *, start: int, count: int, rate: int, info: AudioInfo | None = None
) -> FloatArray:
    """Reads `count` mono samples from sample `start`, both counted at `rate` Hz.

    Returns:
        `[count]` float64, zero past the end of the file.

    Raises:
        AudioError: as `read_window`.
    """
    info = info or probe(path)
    first, skip = _source_start(start, rate=rate, info=info)
    last = math.ceil((start + count) * info.sample_rate / rate + _MARGIN_S * info.sample_rate)
    source = _read_mono(path, first, min(last, info.frames) - first, info)
    audio = source if info.sample_rate == rate else soxr.resample(source, info.sample_rate, rate, quality="HQ")
    audio = audio[skip : skip + count]
    return np.pad(audio, (0, count - len(audio)))


def window_starts(
    seconds: float, *, spec: FeatureSpec, hop_s: float | None = None, min_fill: float = 0.5
) -> list[float]:
    """Plans the windows of a track.

    The last window ends where the track ends, overlapping the one before:
    nothing is lost and no silence is added, which a model would learn as sound.
    Only a track shorter than one window is padded.

    Args:
        seconds: length of the track.
        spec: gives the window length.
        hop_s: s between window starts; the window length when None.
        min_fill: what is left over at the end becomes a window, and a track shorter
            than a window is kept, when it fills at least this share of a window.

    Returns:
        Window starts in s. Empty when the track is too short for one window.
    """
    step = spec.window_s if hop_s is None else hop_s
    needed = min_fill * spec.window_s
    if seconds + 1e-9 < needed:
        return []
    whole = 1 + max(0, math.floor((seconds - spec.window_s) / step + 1e-9))
    starts = [index * step for index in range(whole)]
    left_over = seconds - (starts[-1] + step)
    if seconds > starts[-1] + spec.window_s and left_over + 1e-9 >= needed:
        starts.append(math.floor((seconds - spec.window_s) * spec.sample_rate) / spec.sample_rate)
    return starts


def read_blocks(path: str | os.PathLike[str], *, block_s: float = 30.0) -> Iterator[FloatArray]:
    """Yields a file as mono blocks at its own rate, for statistics over long files.

    Raises:
        AudioError: as `read_window`.
    """
    info = probe(path)
    step = max(1, round(block_s * info.sample_rate))
    for first in range(0, info.frames, step):
        yield _read_mono(path, first, min(step, info.frames - first), info)


def write_wav(path: Path, audio: NDArray[np.floating], sample_rate: int) -> None:
    """Writes `[samples]` as 16-bit wav through a temporary name, scaled down if it would clip.

    Raises:
        TfpipeError: the file cannot be written.
    """
    if not np.isfinite(audio).all():
        raise TfpipeError(f"{path}: not written, the audio holds NaN or Inf")
    peak = float(np.max(np.abs(audio))) if audio.size else 0.0
    audio = audio / peak if peak > 1.0 else audio
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            soundfile.write(temporary, audio, sample_rate, format="WAV", subtype="PCM_16")
            os.replace(temporary, path)
        except soundfile.SoundFileError as error:
            raise OSError(None, _reason(error), str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)


def _source_start(start: int, *, rate: int, info: AudioInfo) -> tuple[int, int]:
    """Returns the first source frame to read and how many resampled samples to drop.

    Reading starts on a frame that falls on the target's sample grid, so every
    window sees the samples that resampling the whole file would give.
    """
    if info.sample_rate == rate:
        return min(start, info.frames), 0
    common = math.gcd(info.sample_rate, rate)
    source_step, target_step = info.sample_rate // common, rate // common
    wanted = start / rate - _MARGIN_S
    grid = max(0, math.floor(wanted * rate / target_step))
    grid = min(grid, info.frames // source_step)
    return grid * source_step, start - grid * target_step


def _read_mono(path: str | os.PathLike[str], first: int, count: int, info: AudioInfo) -> FloatArray:
    """Reads `[count]` frames from `first`, mixed to mono."""

    def checked() -> Iterator[FloatArray]:
        place = first
        for block in _read_frames(path, first, max(0, count), info):
            if not np.isfinite(block).all():
                raise AudioError("not_finite", f"{path}: holds NaN or Inf samples near frame {place}")
            place += len(block)
            yield block
        if place < first + count:
            raise AudioError("truncated", f"{path}: breaks off after frame {place}")

    return _mixed(checked)


def _mixed(read: Callable[[], Iterable[FloatArray]]) -> FloatArray:
    """Mixes `[n, channels]` blocks to mono `[frames]`.

    The mean of the channels; where that cancels (opposite-phase stereo loses
    more than 20 dB against the loudest channel) the loudest channel alone,
    for which all is read once more, so that nothing vanishes unnoticed.
    """
    mono, energies = [np.zeros(0)], np.zeros(1)
    for block in read():
        mono.append(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
        energies = energies + np.square(block).sum(axis=0)
    mean = np.concatenate(mono)
    if len(energies) > 1 and np.square(mean).sum() < energies.max() * 10.0 ** (_CANCELLED_DB / 10.0) / len(energies):
        return np.concatenate([block[:, int(energies.argmax())] for block in read()])
    return mean


def _read_frames(path: str | os.PathLike[str], first: int, count: int, info: AudioInfo) -> Iterator[FloatArray]:
    """Yields `[n, channels]` float64 blocks, `count` frames from `first`, fewer where the file ends."""
    step = max(1, _BLOCK_VALUES // info.channels)
    if info.decoder != "libsndfile":
        from tfpipe import audio_av

        yield from audio_av.read_blocks(path, first=first, count=count, info=info)
        return
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            place = _seek_place(first, file)
            if place > 0:
                file.seek(place)
            for start in range(place, first, step):
                file.read(min(step, first - start))
            for start in range(0, count, step):
                yield file.read(min(step, count - start), dtype="float64", always_2d=True)
    except OSError as error:
        raise AudioError("unreadable", explain(error, os.fspath(path))) from error
    except _SOUNDFILE_ERRORS as error:
        raise AudioError("damaged", f"{path}: damaged near frame {first} ({_reason(error)})") from error


def _seek_place(first: int, file: soundfile.SoundFile) -> int:
    """Returns the last frame up to `first` from where reading on gives what reading the whole file gives."""
    if not file.seekable():
        return 0  # GSM in wav: all that comes before has to be decoded
    # Within the last Ogg page libsndfile lands beside the frame by what the end is cut by.
    return min(first, max(0, file.frames - _VORBIS_PAGE)) if file.subtype == "VORBIS" else first


def _probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Asks libsndfile, then FFmpeg."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            info = AudioInfo(
                sample_rate=file.samplerate,
                channels=file.channels,
                frames=file.frames,
                seconds=file.frames / file.samplerate if file.samplerate else 0.0,
                format=f"{file.format}/{file.subtype}",
            )
            cut = _CUT.search(file.extra_info)
    except _SOUNDFILE_ERRORS as error:
        from tfpipe import audio_av

        if audio_av.container_of(path) in (None, "flac"):
            raise AudioError("undecodable", f"{path}: not audio that can be decoded ({_reason(error)})") from error
        return audio_av.probe(path)
    if info.frames == _UNKNOWN_FRAMES:
        from tfpipe import audio_av

        return audio_av.probe(path)
    if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_SIZE:
        raise AudioError(
            "truncated", f"{path}: breaks off, {cut[2]} of the {cut[1]} bytes that its header promises are there"
        )
    if info.format.startswith("OGG"):
        _require_whole_pages(path)
    return info


def _require_whole_pages(path: str | os.PathLike[str]) -> None:
    """Checks an Ogg file's checksums: its decoders pass over damaged pages without a word.

    Format: RFC 3533. Its CRC-32 is that of zlib with the bits of each byte in reverse.

    Raises:
        AudioError: a page is damaged or cut.
    """
    with open(path, "rb") as file:
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


def _require_regular_file(path: str | os.PathLike[str]) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise AudioError("unreadable", explain(error, os.fspath(path))) from error
    if not stat.S_ISREG(status.st_mode):
        raise AudioError("not_a_file", f"{path}: is not a regular file")
    if status.st_size == 0:
        raise AudioError("empty", f"{path}: is an empty file")
    if not os.access(path, os.R_OK):
        raise AudioError("unreadable", f"{path}: permission denied")


def _reason(error: Exception) -> str:
    """The library's own words without the path it repeats."""
    words = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return "Format not recognised" if "is not a regular file" in words else words  # what it says of a bad mp3
