"""Reading recordings: properties, one window at a time, mixed to mono and resampled. Loads no TensorFlow.

A window of a long file is read alone, with a margin on each side for the
resampler, so a file of ten hours takes the memory of one window.

The content decides the format, not the file's name. libsndfile
(`tfpipe.audio.libsndfile`) reads wav (also WAVEX, RF64 and float), aiff, au, caf,
w64, flac, alac in caf, ogg, opus and mp3. FFmpeg (`tfpipe.audio.ffmpeg`) reads
what libsndfile does not know: m4a, mp4, webm, mka, aac, wma, and flac whose
header does not give the length.

Each frame of a file has the same samples to the bit, whatever is read before it
and wherever the read begins. Reads that follow or overlap each other therefore
decode nothing twice, and give what each of them gives alone
(measured in tests/tfpipe/audio/test_reader.py). In all formats of libsndfile but Opus
these samples are those of the file decoded in one go. Opus and the formats of
FFmpeg depend a little on where decoding begins. They are therefore decoded in
segments of 30 s (`tfpipe.audio.segments.SEGMENT_S`), and differ from a decoding in one go:

- by rounding, 1e-6 of full scale in Opus and 1e-5 in the formats of FFmpeg;
- in AAC that stores only the level of a noise, each segment starts that noise anew;
- Matroska and ASF store times to the millisecond, so a segment may begin a
  little off where packets vary in length.

Samples stay float32 unless the file's have more bits (PCM_32, DOUBLE, ALAC_32). Channels
are mixed and resampled in that type. The resampler (soxr, quality HQ) computes in float32 anyway.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import soxr

from tfpipe.audio import libsndfile, mix
from tfpipe.audio.containers import container_of, has_audio
from tfpipe.audio.ffmpeg import FfmpegDecoder
from tfpipe.audio.info import AudioInfo, Decoder, Samples
from tfpipe.errors import AudioError, os_error_message
from tfpipe.files.remote import is_remote, stamp
from tfpipe.spec import FeatureSpec

if TYPE_CHECKING:
    from tfpipe.features.log_mel import FloatArray  # that module loads SciPy, which takes seconds

# A read of no more values than this (all channels together) is decoded as one array of 16 or 32 MB.
_WHOLE_VALUES = 2**22
# The latest read and this much before it is kept for the next one, s: the vocoder reads a window with a margin.
_KEPT_S = 0.5
# Without a margin the edges of a resampled window are off by up to 0.03; with this one by 5e-5.
_MARGIN_S = 0.1
_MAX_CHANNELS = 256
RATES = 1_000, 1_000_000
_MAX_S = 7 * 86_400.0


class TrackReader:
    """A recording that is open for reading windows of it; use it in a `with` block.

    A read gives the same samples to the bit whatever was read before. Reads
    that go forward through the file are the fastest: they decode each frame once, also where they overlap.

    Args:
        path: audio file or its URL (`s3://`, `gs://`, `http://`). Of a URL only the parts that are needed are
            fetched.
        info: the file's properties from `probe`, if the caller has them; saves looking through the file again.
        decoder: opens the file with another decoder than libsndfile or FFmpeg. It is called with `path` and `info`.

    Attributes:
        path: the file.
        info: the file's properties.

    Raises:
        AudioError: not a regular file, cannot be read, is empty, or is not audio.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        info: AudioInfo | None = None,
        decoder: Callable[[str | os.PathLike[str], AudioInfo | None], Decoder] | None = None,
    ) -> None:
        _require_file(path)
        self.path = path
        self._decoder = (decoder or _open)(path, info)
        self.info = self._decoder.info
        self._kept: Samples = np.zeros((0, max(1, self.info.channels)), np.float32)
        self._kept_from = 0
        try:
            _require_plausible(path, self.info)
        except AudioError:
            self.close()
            raise

    def read(self, start: int, count: int, *, rate: int) -> FloatArray:
        """Reads mono samples at a sample rate of the caller's choice.

        Args:
            start: first sample, counted at `rate`.
            count: number of samples, counted at `rate`.
            rate: Hz.

        Returns:
            `[count]` float64, full scale 1.0, zero past the end of the file.

        Raises:
            AudioError: the file cannot be read, ends too early, or holds NaN or Inf there.
        """
        source, skip = self.source(start, count, rate=rate)
        own = self.info.sample_rate
        audio = (source if own == rate else soxr.resample(source, own, rate, quality="HQ"))[skip : skip + count]
        padded = np.zeros(count)
        padded[: len(audio)] = audio
        return padded

    def source(self, start: int, count: int, *, rate: int) -> tuple[Samples, int]:
        """Reads what `read` resamples: mono at the file's own rate, with a margin on each side.

        Args:
            start: first sample, counted at `rate`.
            count: number of samples, counted at `rate`.
            rate: Hz, of the resampled audio.

        Returns:
            `[frames]` float32 or float64, and how many samples at `rate` lie before `start` in it.

        Raises:
            AudioError: as `read`.
        """
        info = self.info
        first, skip = _source_start(start, rate=rate, info=info)
        last = math.ceil((start + count) * info.sample_rate / rate + _MARGIN_S * info.sample_rate)
        return self._mono(first, min(last, info.frames) - first), skip

    def plan(self, *, spec: FeatureSpec, hop_s: float | None, min_fill: float) -> list[int]:
        """Returns the first sample of each window, at the spec's rate; see `window_starts`.

        Raises:
            AudioError: the file is too short for one window.
        """
        starts = window_starts(self.info.seconds, spec=spec, hop_s=hop_s, min_fill=min_fill)
        if not starts:
            needed = min_fill * spec.window_s
            raise AudioError("too_short", f"{self.path}: {self.info.seconds:.3g} s long, a window needs {needed:g} s")
        return [round(start * spec.sample_rate) for start in starts]

    def blocks(self, *, block_s: float = 30.0) -> Iterator[Samples]:
        """Yields the whole file as mono blocks `[frames]` of `block_s` s, at its own rate.

        Raises:
            AudioError: as `read`.
        """
        step = max(1, round(block_s * self.info.sample_rate))
        for first in range(0, self.info.frames, step):
            yield self._mono(first, min(step, self.info.frames - first))

    def close(self) -> None:
        """Closes the file."""
        self._forget()
        self._decoder.close()

    def __enter__(self) -> TrackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mono(self, first: int, count: int) -> Samples:
        """Reads `[count]` frames from `first`, mixed to mono."""
        if max(0, count) * self.info.channels <= _WHOLE_VALUES:
            frames = self._frames(first, max(0, count))
            mono = mix.quickly(frames)
            return mix.exactly(lambda: self._finite(first, [frames])) if mono is None else mono

        def blocks() -> Iterator[Samples]:
            place = first
            for block in self._finite(first, self._decoder.frames(first, count)):
                place += len(block)
                yield block
            self._require_all(first + count - place, place)

        return mix.exactly(blocks)

    def _frames(self, first: int, count: int) -> Samples:
        """Reads `[count, channels]` frames from `first`; decodes only those that are not kept from the read before."""
        kept, start = self._kept, self._kept_from
        self._forget()
        if not start <= first < start + len(kept):
            kept, start = kept[:0], first
        back = max(0, first - start - round(_KEPT_S * self.info.sample_rate))
        parts, start = [kept[back:]], start + back
        place = start + len(parts[0])
        if place < first + count:
            for block in self._decoder.frames(place, first + count - place):
                parts.append(block)
                place += len(block)
            self._require_all(first + count - place, place)
        self._kept, self._kept_from = np.concatenate(parts) if len(parts) > 1 else parts[0], start
        return self._kept[first - start : first - start + count]

    def _forget(self) -> None:
        self._kept, self._kept_from = self._kept[:0].copy(), 0

    def _finite(self, first: int, blocks: Iterable[Samples]) -> Iterator[Samples]:
        for block in blocks:
            if not (good := np.isfinite(block).all(axis=1)).all():
                place = first + int(good.argmin())
                raise AudioError("not_finite", f"{self.path}: holds NaN or Inf samples near frame {place}")
            first += len(block)
            yield block

    def _require_all(self, missing: int, place: int) -> None:
        if missing > 0:
            raise AudioError("truncated", f"{self.path}: breaks off after frame {place}")


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Returns the properties of an audio file.

    Raises:
        AudioError: as `TrackReader`.
    """
    with TrackReader(path) as reader:
        return reader.info


def is_audio(path: str | os.PathLike[str]) -> bool:
    """Tells by the content of a regular file whether a decoder can open it."""
    return libsndfile.knows(path) or has_audio(path)


def read_window(
    path: str | os.PathLike[str], *, start_s: float, spec: FeatureSpec, info: AudioInfo | None = None
) -> FloatArray:
    """Reads one window: mono, at the spec's rate, zero past the end of the file.

    To read several windows of a file use a `TrackReader`.

    Args:
        path: audio file or its URL.
        start_s: start of the window in s, rounded to a whole sample.
        spec: gives the rate and the length.
        info: the file's properties from `probe`, if the caller has them.

    Returns:
        `[spec.samples]` float64, full scale 1.0.

    Raises:
        AudioError: as `TrackReader` and its `read`.
    """
    with TrackReader(path, info=info) as reader:
        return reader.read(round(start_s * spec.sample_rate), spec.samples, rate=spec.sample_rate)


def window_starts(seconds: float, *, spec: FeatureSpec, hop_s: float | None, min_fill: float) -> list[float]:
    """Plans the windows of a track.

    If a rest is left at the end of the track, the last window ends where the
    track ends and overlaps the one before. Padding the rest instead would add
    silence, which a model would learn as sound. Only a track that is shorter
    than one window is padded.

    Args:
        seconds: length of the track.
        spec: gives the window length.
        hop_s: s between window starts; the window length if None.
        min_fill: a rest becomes a window if it fills at least this share of one. A track that is
            shorter than a window is kept under the same condition.

    Returns:
        Window starts in s. Empty if the track is too short for one window.
    """
    step = spec.window_s if hop_s is None else hop_s
    needed = min_fill * spec.window_s
    if seconds + 1e-9 < needed:
        return []
    whole = 1 + max(0, math.floor((seconds - spec.window_s) / step + 1e-9))
    starts = [index * step for index in range(whole)]
    rest = seconds - (starts[-1] + step)
    if seconds > starts[-1] + spec.window_s and rest + 1e-9 >= needed:
        starts.append(math.floor((seconds - spec.window_s) * spec.sample_rate) / spec.sample_rate)
    return starts


def _source_start(start: int, *, rate: int, info: AudioInfo) -> tuple[int, int]:
    """Returns the first frame of the file to read, and how many resampled samples to drop.

    The two rates have a common grid of points in time. Reading starts on that
    grid, so that a window gets the samples that resampling the whole file would give.
    """
    if info.sample_rate == rate:
        return min(start, info.frames), 0
    common = math.gcd(info.sample_rate, rate)
    source_step, target_step = info.sample_rate // common, rate // common
    wanted = start / rate - _MARGIN_S
    grid = max(0, math.floor(wanted * rate / target_step))
    grid = min(grid, info.frames // source_step)
    return grid * source_step, start - grid * target_step


def _open(path: str | os.PathLike[str], info: AudioInfo | None) -> Decoder:
    """Opens a file with libsndfile or, if libsndfile does not know it or its length, with FFmpeg."""
    if info is None or info.decoder == "libsndfile":
        try:
            decoder = libsndfile.SndfileDecoder(path, info)
        except AudioError as error:
            # FFmpeg gets FLAC only if its length is unknown. What libsndfile calls damaged is not tried again.
            if error.code != "undecodable" or container_of(path) in (None, "flac"):
                raise
        else:
            if decoder.info.frames != libsndfile.UNKNOWN_FRAMES:
                return decoder
            decoder.close()
    return FfmpegDecoder(path, info)


def _require_plausible(path: str | os.PathLike[str], info: AudioInfo) -> None:
    lowest, highest = RATES
    if not (lowest <= info.sample_rate <= highest and 0 < info.channels <= _MAX_CHANNELS and info.seconds <= _MAX_S):
        raise AudioError(
            "bad_header",
            f"{path}: header says {info.channels} channels at {info.sample_rate} Hz for {info.seconds:.4g} s, "
            f"so it is no recording of sound ({lowest} to {highest} Hz, 1 to {_MAX_CHANNELS} channels, at most a week)",
        )
    if info.frames <= 0:
        raise AudioError("empty", f"{path}: holds no samples")


def _require_file(path: str | os.PathLike[str]) -> None:
    """Refuses what is missing, empty, not readable or, on a local disk, not a regular file."""
    try:
        size = stamp(path)[0]
        regular = is_remote(path) or stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise AudioError("unreadable", os_error_message(error, path)) from error
    if not regular:
        raise AudioError("not_a_file", f"{path}: is not a regular file")
    if size == 0:
        raise AudioError("empty", f"{path}: is an empty file")
    if not is_remote(path) and not os.access(path, os.R_OK):
        raise AudioError("unreadable", f"{path}: permission denied")
