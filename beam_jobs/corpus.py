"""Finding the audio files of a corpus: folders, files and globs, decided by content."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import soundfile

from tfpipe.errors import TfpipeError
from tfpipe.manifest import Skipped
from tfpipe.storage import explain

# Names that claim to be audio: such a file is reported when it cannot be used. Any
# other file is taken when its content is audio and passed over silently when it is not.
_AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".bwf", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".flac", ".alac"),
    *(".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mka"),
    *(".amr", ".ape", ".wv", ".3gp", ".voc", ".sd2"),
)


@dataclass(frozen=True, order=True)
class AudioFile:
    """A file that is, or claims to be, audio.

    Attributes:
        name: path relative to the corpus' base folder, with `/`.
        path: where to open it.
        label: name of its parent folder.
    """

    name: str
    path: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What was found.

    Attributes:
        base: folder that all names are relative to: the input folder, or what several inputs share.
        files: sorted by name, each path once.
        skipped: things named as audio that are no regular files, and folders that cannot be read.
    """

    base: str
    files: tuple[AudioFile, ...]
    skipped: tuple[Skipped, ...] = ()


def discover(inputs: Iterable[str]) -> Corpus:
    """Finds the audio files under `inputs`.

    Folders are read recursively without hidden files, each folder once, so
    that links that loop end. Only regular files are opened.

    Args:
        inputs: folders, single files, or globs (`**` is recursive).

    Raises:
        TfpipeError: an input is missing, or nothing there is audio.
    """
    roots = [os.path.abspath(root) for entry in inputs for root in _expand(entry)]
    base = os.path.commonpath([root if os.path.isdir(root) else os.path.dirname(root) for root in roots])
    files: dict[str, AudioFile] = {}
    skipped: dict[str, Skipped] = {}
    seen: set[tuple[int, int]] = set()
    for path, error in (found for root in sorted(set(roots)) for found in _walk(root, seen)):
        name = os.path.relpath(path, base)
        if error is not None:
            skipped[path] = Skipped(path=name, code=error[0], message=f"{path}: {error[1]}")
        else:
            files[path] = AudioFile(name, path, os.path.basename(os.path.dirname(path)) or "unlabelled")
    if not files and not skipped:
        raise TfpipeError(f"{', '.join(inputs)}: no audio files here; give a folder with wav, flac, ogg or mp3 files")
    return Corpus(
        base=base,
        files=tuple(sorted(files.values())),
        skipped=tuple(sorted(skipped.values(), key=lambda row: row.path)),
    )


def _expand(entry: str) -> list[str]:
    entry = os.path.expanduser(entry)
    if os.path.lexists(entry):
        return [entry]
    if not glob.has_magic(entry):
        raise TfpipeError(f"{entry}: no such file or folder; check the path")
    if not (matches := sorted(glob.glob(entry, recursive=True))):
        raise TfpipeError(f"{entry}: nothing matches; check the pattern")
    return matches


def _walk(path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Yields (path, None) for audio and (path, (code, message)) for what claims to be and cannot be."""
    claims_audio = path.lower().endswith(_AUDIO_SUFFIXES)
    try:
        status = os.stat(path)
        entries = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else None
    except OSError as error:
        if claims_audio or os.path.isdir(path):
            yield path, ("unreadable", explain(error, path).removeprefix(f"{path}: "))
        return
    if entries is None:
        if not stat.S_ISREG(status.st_mode):
            if claims_audio:
                yield path, ("not_a_file", "is not a regular file")
        elif claims_audio or _is_audio(path):
            yield path, None
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    if claims_audio and not entries:
        yield path, ("not_a_file", "is an empty folder, not a file")
    for entry in entries:
        if not entry.startswith("."):
            yield from _walk(os.path.join(path, entry), seen)


def _is_audio(path: str) -> bool:
    """Tells by content whether the decoder knows a regular file."""
    try:
        with soundfile.SoundFile(os.fsencode(path)):
            return True
    except (OSError, RuntimeError, TypeError, ValueError):
        return False
