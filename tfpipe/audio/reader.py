"""Reading recordings: probe, one window at a time, mono, resampled; and writing wav.

A window of a long file is read alone, with a margin on each side for the
resampler, so a ten-hour file costs the memory of one window. Loads no
TensorFlow.

The content decides the format, not the name. libsndfile reads wav (also
extensible, RF64, float), aiff, au, caf, w64, flac, alac in caf, ogg, opus and
mp3; what it does not know is left to FFmpeg (`tfpipe.audio.ffmpeg`): m4a, mp4,
webm, mka, aac, wma, and flac that does not say its length. A window read alone
equals the same part of the file decoded whole: bit by bit for all of
libsndfile's formats but opus (1e-6 of full scale), and within 1e-5 for
FFmpeg's (measured in tests/tfpipe/audio/test_reader.py). It is the same to the bit
whatever was read before it, in every format. Two things are looser in FFmpeg's:
where AAC stores only the level of a noise, each reading starts that noise
anew (the same way each time), and Matroska and ASF keep time to the
millisecond where packets vary in length.
"""

from __future__ import annotations

import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tfpipe.audio import libsndfile
from tfpipe.audio.libsndfile import AudioInfo
from tfpipe.errors import AudioError, TfpipeError, os_error_message, translate_os_errors
from tfpipe.files.remote import is_remote, stamp
from tfpipe.spec import FeatureSpec

if TYPE_CHECKING:
    from tfpipe.features.log_mel import FloatArray  # librosa takes seconds to import, and a client needs none of it

# Without a margin the resampler's edges differ by up to 0.03; with it by 5e-5.
_MARGIN_S = 0.1
# Samples of a long wav that are scaled at a time.
_WAV_BLOCK = 2**20
_MAX_CHANNELS = 256
_RATES = 1_000, 1_000_000
_MAX_S = 7 * 86_400.0
# The mean of the channels is taken unless it loses more than this against the loudest one.
_CANCELLED_DB = -20.0


class Track(Protocol):
    """A file that a decoder holds open; `info` is what its header says."""

    info: AudioInfo

    def frames(self, first: int, count: int) -> Iterator[FloatArray]:
        """Yields `[n, channels]` blocks, `count` frames from `first`, fewer where the file ends."""

    def close(self) -> None:
        """Closes the file."""


class TrackReader:
    """A recording held open, to read windows of it; use it in a `with` block.

    What a read returns follows from the file and the arguments alone, to the
    bit, never from earlier reads. Reads that go forward are the cheapest.

    Args:
        path: audio file, or a URL (`s3://`, `gs://`) to one, of which only the parts that are read are fetched.
        info: the file's `probe`, when the caller has it; saves looking through the file once more.
        decoder: opens a path, given what `info` is, with another decoder than this module's.

    Attributes:
        path: the file.
        info: what the file's header says.

    Raises:
        AudioError: not a regular file, unreadable, empty, or not audio.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        info: AudioInfo | None = None,
        decoder: Callable[[str | os.PathLike[str], AudioInfo | None], Track] | None = None,
    ) -> None:
        _require_file(path)
        self.path = path
        self._track = (decoder or _open)(path, info)
        self.info = self._track.info
        try:
            _require_plausible(path, self.info)
        except AudioError:
            self.close()
            raise

    def read(self, start: int, count: int, *, rate: int) -> FloatArray:
        """Reads `count` mono samples from sample `start`, both counted at `rate` Hz.

        Returns:
            `[count]` float64, full scale 1.0, zero past the end of the file.

        Raises:
            AudioError: the file cannot be read, breaks off, or holds NaN or Inf there.
        """
        source, skip = self.source(start, count, rate=rate)
        own = self.info.sample_rate
        audio = (source if own == rate else soxr.resample(source, own, rate, quality="HQ"))[skip : skip + count]
        return np.pad(audio, (0, count - len(audio)))

    def source(self, start: int, count: int, *, rate: int) -> tuple[FloatArray, int]:
        """Reads what `read` resamples: mono at the file's own rate, with a margin on each side.

        Returns:
            `[frames]` float64, and how many samples at `rate` Hz lie before `start` in it.

        Raises:
            AudioError: as `read`.
        """
        info = self.info
        first, skip = _source_start(start, rate=rate, info=info)
        last = math.ceil((start + count) * info.sample_rate / rate + _MARGIN_S * info.sample_rate)
        return self._mono(first, min(last, info.frames) - first), skip

    def plan(self, *, spec: FeatureSpec, hop_s: float | None = None, min_fill: float = 0.5) -> list[int]:
        """Returns the first sample of each window, at the spec's rate; see `window_starts`.

        Raises:
            AudioError: the file is too short for one.
        """
        starts = window_starts(self.info.seconds, spec=spec, hop_s=hop_s, min_fill=min_fill)
        if not starts:
            needed = min_fill * spec.window_s
            raise AudioError("too_short", f"{self.path}: {self.info.seconds:.3g} s long, a window needs {needed:g} s")
        return [round(start * spec.sample_rate) for start in starts]

    def blocks(self, *, block_s: float = 30.0) -> Iterator[FloatArray]:
        """Yields the file as mono blocks at its own rate, for statistics over long files.

        Raises:
            AudioError: as `read`.
        """
        step = max(1, round(block_s * self.info.sample_rate))
        for first in range(0, self.info.frames, step):
            yield self._mono(first, min(step, self.info.frames - first))

    def close(self) -> None:
        """Closes the file."""
        self._track.close()

    def __enter__(self) -> TrackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mono(self, first: int, count: int) -> FloatArray:
        """Reads `[count]` frames from `first`, mixed to mono."""

        def checked() -> Iterator[FloatArray]:
            place = first
            for block in self._track.frames(first, max(0, count)):
                if not np.isfinite(block).all():
                    raise AudioError("not_finite", f"{self.path}: holds NaN or Inf samples near frame {place}")
                place += len(block)
                yield block
            if place < first + count:
                raise AudioError("truncated", f"{self.path}: breaks off after frame {place}")

        return _mixed(checked)


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: as `TrackReader`.
    """
    with TrackReader(path) as reader:
        return reader.info


def is_audio(path: str | os.PathLike[str]) -> bool:
    """Tells by content whether a decoder knows a regular file."""
    if libsndfile.knows(path):
        return True
    from tfpipe.audio import ffmpeg

    return ffmpeg.has_audio(path)


def read_window(
    path: str | os.PathLike[str], *, start_s: float, spec: FeatureSpec, info: AudioInfo | None = None
) -> FloatArray:
    """Reads one window: mono, at the spec's rate, zero-padded past the end of the file.

    For several windows of a file use a `TrackReader`.

    Args:
        path: audio file.
        start_s: start of the window in s; put on the spec's sample grid.
        spec: gives rate and length.
        info: the file's `probe`, when the caller has it.

    Returns:
        `[spec.samples]` float64, full scale 1.0.

    Raises:
        AudioError: as `TrackReader` and its `read`.
    """
    with TrackReader(path, info=info) as reader:
        return reader.read(round(start_s * spec.sample_rate), spec.samples, rate=spec.sample_rate)


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


def write_wav(path: Path, audio: NDArray[np.floating], sample_rate: int) -> None:
    """Writes `[samples]` as 16-bit wav through a temporary name, scaled down if it would clip.

    Raises:
        TfpipeError: the audio is not finite, or the file cannot be written.
    """
    peak = _finite_peak(audio, path)
    with _written_wav(path, sample_rate, frames=len(audio)) as file:
        file.write(audio / peak if peak > 1.0 else audio)


def write_long_wav(path: Path, pieces: Iterable[NDArray[np.floating]], sample_rate: int) -> int:
    """Writes what `write_wav` would of the pieces joined, holding one at a time; returns the samples.

    Raises:
        TfpipeError: the audio is not finite, or the file cannot be written.
    """
    peak = 1.0
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Exact at first, as how much must be scaled shows at the end; RF64 ends at no 4 GB.
        with tempfile.TemporaryFile(dir=path.parent) as exact:
            try:
                with soundfile.SoundFile(exact, "w", sample_rate, 1, "FLOAT", format="RF64") as file:
                    for piece in pieces:
                        peak = max(peak, _finite_peak(piece, path))
                        file.write(piece)
                    frames = file.frames
            except soundfile.SoundFileError as error:
                raise OSError(None, libsndfile.reason(error), str(path)) from error
            exact.seek(0)
            with soundfile.SoundFile(exact) as file, _written_wav(path, sample_rate, frames=frames) as scaled:
                for block in file.blocks(_WAV_BLOCK):
                    scaled.write(block / peak)
    return frames


def _finite_peak(audio: NDArray[np.floating], path: Path) -> float:
    if not np.isfinite(audio).all():
        raise TfpipeError(f"{path}: not written, the audio holds NaN or Inf")
    return float(np.abs(audio).max(initial=0.0))


@contextmanager
def _written_wav(path: Path, sample_rate: int, *, frames: int) -> Iterator[soundfile.SoundFile]:
    """A mono 16-bit wav that gets its name when the block ends well; RF64 where wav's 4 GB would not do."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    kind = "WAV" if frames < 2**31 - 2**10 else "RF64"
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with soundfile.SoundFile(temporary, "w", sample_rate, 1, "PCM_16", format=kind) as file:
                yield file
            os.replace(temporary, path)
        except soundfile.SoundFileError as error:
            raise OSError(None, libsndfile.reason(error), str(path)) from error
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


def _open(path: str | os.PathLike[str], info: AudioInfo | None) -> Track:
    """Opens a file with libsndfile, or else with FFmpeg."""
    if info is None or info.decoder == "libsndfile":
        try:
            track = libsndfile.Track(path, info)
        except AudioError as error:
            if error.code != "undecodable":
                raise
            from tfpipe.audio import ffmpeg

            if ffmpeg.container_of(path) in (None, "flac"):
                raise
        else:
            if track.info.frames != libsndfile.UNKNOWN_FRAMES:
                return track
            track.close()
    from tfpipe.audio import ffmpeg

    return ffmpeg.Track(path, info)


def _require_plausible(path: str | os.PathLike[str], info: AudioInfo) -> None:
    lowest, highest = _RATES
    if not (lowest <= info.sample_rate <= highest and 0 < info.channels <= _MAX_CHANNELS and info.seconds <= _MAX_S):
        raise AudioError(
            "bad_header",
            f"{path}: header says {info.channels} channels at {info.sample_rate} Hz for {info.seconds:.4g} s, "
            f"which is no recording of sound ({lowest} to {highest} Hz, 1 to {_MAX_CHANNELS} channels, at most a week)",
        )
    if info.frames <= 0:
        raise AudioError("empty", f"{path}: holds no samples")


def _require_file(path: str | os.PathLike[str]) -> None:
    """Checks that there is something to open; at a URL nothing is but files."""
    try:
        size = stamp(path)[0]
        regular = is_remote(path) or stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise AudioError("unreadable", os_error_message(error, os.fspath(path))) from error
    if not regular:
        raise AudioError("not_a_file", f"{path}: is not a regular file")
    if size == 0:
        raise AudioError("empty", f"{path}: is an empty file")
    if not is_remote(path) and not os.access(path, os.R_OK):
        raise AudioError("unreadable", f"{path}: permission denied")
