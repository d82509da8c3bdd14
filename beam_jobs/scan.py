"""Scans an audio file: finds its content hash, the windows to keep, or the reason why it cannot be used."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile
from beam_jobs.metrics import Meter
from tfpipe.audio.reader import TrackReader
from tfpipe.data.manifest import Skipped
from tfpipe.errors import AudioError, TfpipeError, os_error_message
from tfpipe.features.log_mel import is_silent
from tfpipe.files import remote
from tfpipe.files.storage import sha256_file

if TYPE_CHECKING:
    from beam_jobs.early import EarlyExamples  # it needs the plan, which needs this module


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the job knows of a file after reading it once; small, because the scans travel between workers.

    Attributes:
        file: the file.
        hash: SHA-256 of the file's bytes, hex; empty if the file could not be read.
        stamp: size in bytes and modification time in ns when the file was read.
        seconds: length in s.
        starts: first sample of each window that is kept, at the spec's rate.
        silent: number of windows dropped because they are silent.
        unused_s: seconds that no window covers, such as an end that is too short for a window.
        skipped: why the whole file is skipped, or None.
    """

    file: AudioFile
    hash: str = ""
    stamp: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    starts: tuple[int, ...] = ()
    silent: int = 0
    unused_s: float = 0.0
    skipped: Skipped | None = None


def scan_track(
    file: AudioFile,
    config: PreprocessConfig,
    *,
    known: Scan | None = None,
    early: EarlyExamples | None = None,
    meter: Meter | None = None,
) -> Scan:
    """Reads a file once, window by window, exactly as the shard writer would read it.

    If a part of the file is damaged, missing or not finite, the whole file is
    skipped and reported, because a track that silently became shorter would be worse.

    Args:
        file: the file.
        config: the job's settings.
        known: an earlier scan with the same settings and tools; it is reused if the content is still the same.
        early: where to keep the examples of the windows, if they are to be made now.
        meter: counts what is done and how long it takes.

    Raises:
        TfpipeError: the bucket cannot be reached. The file itself may be fine, so it is not skipped.
    """
    meter = meter or Meter()
    content, stamp = "", (0, 0)
    try:
        stamp = file_stamp(file.path)
        with meter.timed("hash"):
            content = content_hash(file.path, stamp, known)
        if known is not None and known.hash == content and (known.skipped is None or known.file.path == file.path):
            return _renamed(known, file, stamp)
        meter.count("decoded")
        with meter.timed("scan"):
            if early is None:
                return _decode(file, config, content=content, stamp=stamp)
            with early.of(file, content, meter) as made:
                scan = _decode(file, config, content=content, stamp=stamp, on_window=made.add)
                if file_stamp(file.path) == stamp:  # so what was decoded is what was hashed
                    made.keep()
                return scan
    except AudioError as error:
        if isinstance(cause := error.__cause__, OSError) and remote.is_remote(file.path) and cause.errno is None:
            raise TfpipeError(f"{error}; the store could not be reached: run the same command again") from error
        skipped = Skipped(path=file.name, code=error.code, message=_one_line(error))
        return Scan(file=file, hash=content, stamp=stamp, skipped=skipped)


def _decode(
    file: AudioFile,
    config: PreprocessConfig,
    *,
    content: str,
    stamp: tuple[int, int],
    on_window: Callable[[int, NDArray[np.floating[Any]]], None] = lambda start, audio: None,
) -> Scan:
    """Decodes every window, and passes on the start and the samples of those that are not silent.

    Raises:
        AudioError: every window is silent, or a part of the file cannot be used.
    """
    spec = config.spec
    with TrackReader(file.path) as reader:
        seconds = reader.info.seconds
        starts = reader.plan(spec=spec, hop_s=config.hop_s, min_fill=config.min_fill)
        kept = []
        for start in starts:
            audio = reader.read(start, spec.samples, rate=spec.sample_rate)
            if not is_silent(audio, spec):
                kept.append(start)
                on_window(start, audio)
    if not kept:
        raise AudioError("silent", f"{file.path}: every window is under {spec.silence_dbfs:g} dBFS")
    gaps = [later - start - spec.samples for start, later in itertools.pairwise(starts)]
    end = seconds * spec.sample_rate - starts[-1] - spec.samples
    return Scan(
        file=file,
        hash=content,
        stamp=stamp,
        seconds=round(seconds, 6),
        starts=tuple(kept),
        silent=len(starts) - len(kept),
        unused_s=round(sum(max(0.0, gap) for gap in (*gaps, end)) / spec.sample_rate, 3),
    )


def _renamed(known: Scan, file: AudioFile, stamp: tuple[int, int]) -> Scan:
    skipped = known.skipped and dataclasses.replace(known.skipped, path=file.name)
    return dataclasses.replace(known, file=file, stamp=stamp, skipped=skipped)


def content_hash(path: str, stamp: tuple[int, int], known: Scan | None) -> str:
    """Returns the SHA-256 of a file as hex.

    An object at a URL is not downloaded if its stamp is that of the known scan,
    because the store itself sets an object's time. The time of a local file can
    be set by anyone, so a local file is always read.

    Args:
        path: local path or URL.
        stamp: its present `file_stamp`.
        known: an earlier scan of it, or None.

    Raises:
        AudioError: the file cannot be read.
    """
    if known is not None and known.hash and remote.is_remote(path) and known.stamp == stamp:
        return known.hash
    return hash_file(path)


def file_stamp(path: str) -> tuple[int, int]:
    """Returns size (bytes) and modification time (ns), by which the job notices that a file has changed.

    Raises:
        AudioError: the file does not exist or cannot be reached.
    """
    try:
        return remote.stamp(path)
    except FileNotFoundError as error:
        raise AudioError("missing", os_error_message(error, path)) from error
    except OSError as error:
        raise AudioError("unreadable", os_error_message(error, path)) from error


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file as hex.

    Raises:
        AudioError: the file cannot be read.
    """
    try:
        return sha256_file(path)
    except OSError as error:
        raise AudioError("unreadable", os_error_message(error, path)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
