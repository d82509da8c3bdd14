"""Writing mono 16-bit wav files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tfpipe.audio.level import fade_edges, limit_peaks, limiter_reach
from tfpipe.errors import TfpipeError, translate_os_errors
from tfpipe.files.storage import atomic_write

# Samples of a long wav that are limited at a time.
_BLOCK = 2**20
# A wav holds 4 GB at most. A file with more samples is written as RF64.
_WAV_MAX_FRAMES = 2**31 - 2**10


def write_wav(
    path: str | os.PathLike[str], audio: NDArray[np.floating[Any]], sample_rate: int, *, fade_s: float = 0.0
) -> None:
    """Writes a mono 16-bit wav, whole or not at all; turns the audio down around peaks that would clip.

    Args:
        path: local file; its folder is made if it is missing.
        audio: `[samples]`, full scale is 1.0.
        sample_rate: Hz.
        fade_s: length of a fade at both ends, s.

    Raises:
        TfpipeError: the audio is not finite, or the file cannot be written.
    """
    _require_finite(audio, path)
    fade = round(fade_s * sample_rate)
    with _open_wav(path, sample_rate, frames=len(audio)) as file:
        file.write(fade_edges(limit_peaks(audio, sample_rate), start=0, total=len(audio), fade=fade))


def write_long_wav(
    path: str | os.PathLike[str],
    pieces: Iterable[NDArray[np.floating[Any]]],
    sample_rate: int,
    *,
    fade_s: float = 0.0,
) -> int:
    """Writes pieces of audio as one wav, like `write_wav` of the joined pieces, with one piece in memory at a time.

    The length of the sound is known only at the end, and a peak changes samples before it. The pieces are therefore
    first written as 32-bit floats to a temporary file in the same folder.

    Args:
        path: local file; its folder is made if it is missing.
        pieces: arrays `[samples]`, full scale is 1.0.
        sample_rate: Hz.
        fade_s: length of a fade at both ends, s.

    Returns:
        The number of samples written.

    Raises:
        TfpipeError: the audio is not finite, or the file cannot be written.
    """
    path = Path(path)
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as raw:
            # RF64 has no limit of 4 GB.
            with _sound_file(raw.fileno(), path, sample_rate, kind="RF64", subtype="FLOAT") as file:
                for piece in pieces:
                    _require_finite(piece, path)
                    file.write(piece)
                frames: int = file.frames
            raw.seek(0)
            fade = round(fade_s * sample_rate)
            with (
                soundfile.SoundFile(raw.fileno(), closefd=False) as file,
                _open_wav(path, sample_rate, frames=frames) as limited,
            ):
                for start in range(0, frames, _BLOCK):
                    block = _limited_block(file, start, sample_rate)
                    limited.write(fade_edges(block, start=start, total=frames, fade=fade))
    return frames


def _limited_block(file: soundfile.SoundFile, start: int, sample_rate: int) -> NDArray[np.floating[Any]]:
    """Reads a block and limits its peaks; the samples on either side that influence the limiter are read too."""
    before = min(start, limiter_reach(sample_rate))
    file.seek(start - before)
    audio = file.read(before + _BLOCK + limiter_reach(sample_rate))
    return limit_peaks(audio, sample_rate)[before : before + _BLOCK]


def _require_finite(audio: NDArray[np.floating[Any]], path: str | os.PathLike[str]) -> None:
    if not np.isfinite(audio).all():
        raise TfpipeError(f"{path}: not written because the audio holds NaN or Inf; check where it comes from")


@contextmanager
def _open_wav(path: str | os.PathLike[str], sample_rate: int, *, frames: int) -> Iterator[soundfile.SoundFile]:
    kind = "WAV" if frames < _WAV_MAX_FRAMES else "RF64"
    with (
        atomic_write(path) as whole,
        _sound_file(whole.fileno(), path, sample_rate, kind=kind, subtype="PCM_16") as file,
    ):
        yield file


@contextmanager
def _sound_file(
    descriptor: int, path: str | os.PathLike[str], sample_rate: int, *, kind: str, subtype: str
) -> Iterator[soundfile.SoundFile]:
    """Writes mono audio to a file descriptor; turns an error of libsndfile into an `OSError`."""
    try:
        with soundfile.SoundFile(descriptor, "w", sample_rate, 1, subtype, format=kind, closefd=False) as file:
            yield file
    except soundfile.SoundFileError as error:
        words = str(getattr(error, "error_string", error)).strip(" .")
        raise OSError(None, f"cannot be written ({words}); is the disk full?", os.fspath(path)) from error
