"""Reading recordings: probe, one window at a time, mono, resampled; and writing wav.

A window of a long file is read alone, with a margin on each side for the
resampler, so a ten-hour file costs the memory of one window. Loads no
TensorFlow.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tfpipe.errors import AudioError
from tfpipe.spec import FeatureSpec
from tfpipe.storage import explain, explain_os_errors

if TYPE_CHECKING:
    from tfpipe.features import FloatArray  # librosa takes seconds to import, and a client needs none of it

# Without a margin the resampler's edges differ by up to 0.03; with it by 5e-5.
_MARGIN_S = 0.1
_MAX_CHANNELS = 256
_MAX_RATE = 1_000_000
# libsndfile's note on a wav or aiff that is shorter than its header says; programs
# that write into a pipe cannot know the size and put the largest number there.
_CUT = re.compile(r"(?:data|SSND)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 0x7FFFF000
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
    """

    sample_rate: int
    channels: int
    frames: int
    seconds: float
    format: str


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: not a regular file, unreadable, empty, or not audio.
    """
    _require_regular_file(path)
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
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise AudioError("undecodable", f"{path}: not audio that can be decoded ({_reason(error)})") from error
    if not (0 < info.sample_rate <= _MAX_RATE and 0 < info.channels <= _MAX_CHANNELS):
        raise AudioError(
            "bad_header", f"{path}: header says {info.channels} channels at {info.sample_rate} Hz, which cannot be"
        )
    if info.frames <= 0:
        raise AudioError("empty", f"{path}: holds no samples")
    if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_SIZE:
        raise AudioError(
            "truncated", f"{path}: breaks off, {cut[2]} of the {cut[1]} bytes that its header promises are there"
        )
    return info


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
    source = downmix(_read_frames(path, first, min(last, info.frames) - first))
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
        yield downmix(_read_frames(path, first, min(step, info.frames - first)))


def downmix(samples: FloatArray) -> FloatArray:
    """Mixes `[frames, channels]` to mono `[frames]`.

    The mean of the channels; where that cancels (opposite-phase stereo loses
    more than 20 dB against the loudest channel) the loudest channel alone, so
    that nothing vanishes unnoticed.
    """
    if samples.shape[1] == 1:
        return samples[:, 0]
    mono = samples.mean(axis=1)
    energies = np.square(samples).sum(axis=0)
    if np.square(mono).sum() < energies.max() * 10.0 ** (_CANCELLED_DB / 10.0) / samples.shape[1]:
        return np.ascontiguousarray(samples[:, int(energies.argmax())])
    return mono


def write_wav(path: Path, audio: NDArray[np.floating], sample_rate: int) -> None:
    """Writes `[samples]` as 16-bit wav through a temporary name, scaled down if it would clip.

    Raises:
        TfpipeError: the file cannot be written.
    """
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


def _read_frames(path: str | os.PathLike[str], first: int, count: int) -> FloatArray:
    """Reads `[count, channels]` float64 frames from `first`."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            file.seek(first)
            samples = file.read(max(0, count), dtype="float64", always_2d=True)
    except OSError as error:
        raise AudioError("unreadable", explain(error, os.fspath(path))) from error
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise AudioError("damaged", f"{path}: damaged near frame {first} ({_reason(error)})") from error
    if len(samples) < count:
        raise AudioError("truncated", f"{path}: breaks off after frame {first + len(samples)}")
    if not np.isfinite(samples).all():
        raise AudioError("not_finite", f"{path}: holds NaN or Inf samples near frame {first}")
    return samples


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
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
