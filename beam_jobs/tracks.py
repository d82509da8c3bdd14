"""From an audio file to a track: content hash, window plan, and what cannot be used."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile
from tfpipe.audio import probe, read_span, window_starts
from tfpipe.errors import AudioError
from tfpipe.features import is_silent
from tfpipe.manifest import Skipped
from tfpipe.storage import explain


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one reading of a file found; small, so that millions fit in one place.

    Attributes:
        file: where it is.
        hash: SHA-256 of the file's bytes, hex; empty when it could not be read.
        stamp: size in bytes and modification time in ns when it was read.
        seconds: length in s.
        starts: first sample of each window that is kept, at the spec's rate.
        silent: number of windows dropped as silent.
        skipped: why the whole file is left out, or None.
    """

    file: AudioFile
    hash: str = ""
    stamp: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    starts: tuple[int, ...] = ()
    silent: int = 0
    skipped: Skipped | None = None


def scan_track(file: AudioFile, config: PreprocessConfig) -> Scan:
    """Reads a file once, window by window, exactly as the shard writer will.

    A file with a damaged, missing or non-finite part is skipped as a whole:
    what is left of it may be anything, and a track that silently became
    shorter is worse than one that is reported.
    """
    content = ""
    try:
        stamp, content = file_stamp(file.path), hash_file(file.path)
        info = probe(file.path)
        starts = _plan(info.seconds, config)
        if not starts:
            needed = config.min_fill * config.spec.window_s
            raise AudioError("too_short", f"{file.path}: {info.seconds:.3g} s long, a window needs {needed:g} s")
        kept = []
        for start in starts:
            audio = read_span(
                file.path, start=start, count=config.spec.samples, rate=config.spec.sample_rate, info=info
            )
            if not is_silent(audio, config.spec):
                kept.append(start)
        if not kept:
            raise AudioError("silent", f"{file.path}: every window is under {config.spec.silence_dbfs:g} dBFS")
    except AudioError as error:
        return Scan(file=file, hash=content, skipped=Skipped(path=file.name, code=error.code, message=_one_line(error)))
    return Scan(
        file=file,
        hash=content,
        stamp=stamp,
        seconds=round(info.seconds, 6),
        starts=tuple(kept),
        silent=len(starts) - len(kept),
    )


def file_stamp(path: str) -> tuple[int, int]:
    """Returns size and modification time (ns), which tell that a file changed under the job.

    Raises:
        AudioError: the file is gone or out of reach.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise AudioError("unreadable", explain(error, path)) from error
    return status.st_size, status.st_mtime_ns


def hash_file(path: str) -> str:
    """Returns the SHA-256 of a file as hex.

    Raises:
        AudioError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError("unreadable", explain(error, path)) from error


def _plan(seconds: float, config: PreprocessConfig) -> list[int]:
    starts = window_starts(seconds, spec=config.spec, hop_s=config.hop_s, min_fill=config.min_fill)
    return [round(start * config.spec.sample_rate) for start in starts]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
