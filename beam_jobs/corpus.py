"""Finds the audio files of a corpus: in folders, as single files, by globs and in lists, local or at URLs.

A local file is taken if its content is audio. In a bucket the name decides,
because each look into an object is a request: below a folder or under a
pattern, objects with an audio suffix are taken. An object that is given by its
own URL or in a list is taken whatever its name.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import posixpath
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from beam_jobs.lists import Entry, absolute, is_list, parent, read_lists
from tfpipe.audio.reader import is_audio
from tfpipe.data.manifest import Skipped, load_tracks
from tfpipe.errors import TfpipeError, os_error_message, translate_os_errors
from tfpipe.files import remote
from tfpipe.files.remote import is_remote
from tfpipe.files.storage import WORK_STATE

# A file with such a name is reported when it cannot be used. Any other local file is
# taken if its content is audio, and ignored without a report if it is not.
_AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".bwf", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".flac", ".alac"),
    *(".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mka"),
    *(".amr", ".ape", ".wv", ".3gp", ".voc", ".sd2"),
)
_WILDCARD = re.compile(r"(/\*\*(?=/)|\*\*|\*|\?|\[!?[^]!][^]]*\])")
_WILDCARD_REGEX = {"/**": "(?:/.*)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
# A path, and the reason code and message if it cannot be used.
_Found = tuple[str, tuple[str, str] | None]


@dataclass(frozen=True, order=True)
class AudioFile:
    """A file that is, or claims to be, audio.

    Attributes:
        name: path relative to the corpus' base folder, with `/`.
        path: where to open it, a local path or a URL.
        label: name of its parent folder, or the label that a list gives.
        group: tracks of one group lie in one split; empty for none.
        split: the split that a person chose for it; empty if its hash decides.
    """

    name: str
    path: str
    label: str
    group: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The audio files of a job.

    Attributes:
        base: the folder that all names are relative to: the input folder, or the common parent of several inputs.
            It is empty if there is no common parent, such as for two buckets; then each name is the whole path.
        files: the files sorted by name, each path once.
        skipped: paths with an audio suffix that are not regular files, and folders that cannot be read.
        splits: splits of an older dataset that are kept, by content hash.
    """

    base: str
    files: tuple[AudioFile, ...]
    skipped: tuple[Skipped, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)


def discover(inputs: Iterable[str], *, groups: str | None = None, splits_from: str | None = None) -> Corpus:
    """Finds the audio files under `inputs`.

    Folders are read recursively, without hidden files. Each folder is read
    once, so a loop of links ends. Only regular files are opened. The label and
    group in a list win over the folder's name, also if another input has the
    same file.

    Args:
        inputs: folders, single files, globs (`**` is recursive), or lists: `.csv` with a
            header or `.jsonl`, with path (relative to the list's folder), label and perhaps group and split.
            Inputs and the paths in lists may be URLs.
        groups: list of path and group; it wins over the groups in `inputs`.
        splits_from: older dataset whose tracks keep their splits, or a list of path and split, which wins over the
            splits in `inputs`.

    Raises:
        TfpipeError: an input or the older dataset is missing, a list is wrong, or no audio is found.
    """
    inputs = [os.path.expanduser(entry) for entry in inputs]
    lists = [entry for entry in inputs if is_list(entry)]
    listed = read_lists(lists, needed=("path", "label"))
    others = [entry for entry in inputs if entry not in lists]
    roots = {os.path.abspath(root) for entry in others if not is_remote(entry) for root in _expand(entry)}
    folders = {root if os.path.isdir(root) else os.path.dirname(root) for root in roots}
    folders |= {parent(absolute(path)) for path in [*lists, *listed]}
    seen: set[tuple[int, int]] = set()
    found = [*(item for root in sorted(roots) for item in _walk(root, seen)), *map(_check, listed.values())]
    for entry in filter(is_remote, others):
        tops, paths = _walk_remote(absolute(entry))
        folders |= tops
        found += [(path, None) for path in paths]
    base = _common_folder(folders)
    files, skipped = _sort_out(found, listed, base)
    if not files and not skipped:
        raise TfpipeError(f"{', '.join(inputs)}: no audio files here; give a folder with wav, flac, ogg or mp3 files")
    if groups is not None:
        _set_from_list(files, skipped, os.path.expanduser(groups), column="group")
    kept: dict[str, str] = {}
    if splits_from is not None and is_list(os.path.expanduser(splits_from)):
        _set_from_list(files, skipped, os.path.expanduser(splits_from), column="split")
    elif splits_from:
        kept = {track.hash: track.split for track in load_tracks(splits_from)}
    _require_one_split(files.values())
    return Corpus(
        base=base,
        files=tuple(sorted(files.values())),
        skipped=tuple(sorted(skipped.values(), key=lambda row: row.path)),
        splits=kept,
    )


def _sort_out(
    found: Iterable[_Found], listed: Mapping[str, Entry], base: str
) -> tuple[dict[str, AudioFile], dict[str, Skipped]]:
    """Splits what was found into usable files and skipped ones, both by path."""
    files: dict[str, AudioFile] = {}
    skipped: dict[str, Skipped] = {}
    for path, problem in found:
        name = _relative(path, base)
        if problem is not None:
            skipped[path] = Skipped(path=name, code=problem[0], message=f"{path}: {problem[1]}")
        elif path in listed:
            files[path] = AudioFile(name, path, listed[path].label, listed[path].group, listed[path].split)
        else:
            files[path] = AudioFile(name, path, os.path.basename(parent(path)) or "unlabelled")
    return files, skipped


def _set_from_list(files: dict[str, AudioFile], skipped: Mapping[str, Skipped], source: str, *, column: str) -> None:
    """Sets the groups or the splits of the files in a list.

    Raises:
        TfpipeError: the list names a file that the inputs lack. A misspelt path would otherwise split its group.
    """
    for path, entry in read_lists([source], needed=("path", column)).items():
        if path in files:
            files[path] = dataclasses.replace(files[path], **{column: getattr(entry, column)})
        elif path not in skipped:
            raise TfpipeError(f"{entry.where}: {path} is not among the input's audio files; correct or remove the line")


def _require_one_split(files: Iterable[AudioFile]) -> None:
    """Raises a TfpipeError if files of one group were given different splits."""
    first: dict[str, AudioFile] = {}
    for file in (file for file in files if file.group and file.split):
        other = first.setdefault(file.group, file)
        if other.split != file.split:
            raise TfpipeError(
                f"{file.path}: its group {file.group!r} is in the split {other.split!r}, where {other.path} is, "
                f"and the file is given {file.split!r}; give all files of a group one split"
            )


def _common_folder(folders: Collection[str]) -> str:
    schemes = {folder.partition("://")[0] if is_remote(folder) else "" for folder in folders}
    if schemes == {""}:
        return os.path.commonpath(folders)
    common = posixpath.commonpath([folder.partition("://")[2] for folder in folders]) if len(schemes) == 1 else ""
    return f"{schemes.pop()}://{common}" if common else ""


def _relative(path: str, base: str) -> str:
    if not base:
        return path
    return path.removeprefix(base).lstrip("/") if is_remote(base) else os.path.relpath(path, base)


def _check(entry: Entry) -> _Found:
    """Checks a path from a list; whether an object at a URL exists shows only when it is read."""
    if is_remote(entry.path):
        return entry.path, None
    try:
        status = os.stat(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return entry.path, ("missing", f"no such file, which {entry.where} names")
    except OSError as error:
        return entry.path, ("unreadable", _reason(error, entry.path))
    if not stat.S_ISREG(status.st_mode):
        return entry.path, ("not_a_file", f"is not a regular file; {entry.where} names it")
    return entry.path, None


def _reason(error: OSError, path: str) -> str:
    return os_error_message(error, path).removeprefix(f"{path}: ")


def _expand(entry: str) -> list[str]:
    """Returns the local paths that an input stands for: itself, or the matches of a glob."""
    if os.path.lexists(entry):
        return [entry]
    if not glob.has_magic(entry):
        raise TfpipeError(f"{entry}: no such file or folder; check the path")
    if not (matches := sorted(glob.glob(entry, recursive=True))):
        raise TfpipeError(f"{entry}: nothing matches; check the pattern")
    return matches


def _walk(path: str, seen: set[tuple[int, int]]) -> Iterator[_Found]:
    """Yields the audio below a local path, and the paths that have an audio suffix and cannot be used.

    Args:
        path: file or folder.
        seen: (device, inode) of the folders that were read already; grows.
    """
    has_suffix = path.lower().endswith(_AUDIO_SUFFIXES)
    try:
        status = os.stat(path)
        entries = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else None
    except OSError as error:
        if has_suffix or os.path.isdir(path):
            yield path, ("unreadable", _reason(error, path))
        return
    if entries is None:
        if not stat.S_ISREG(status.st_mode):
            if has_suffix:
                yield path, ("not_a_file", "is not a regular file")
        elif has_suffix or is_audio(path):
            yield path, None
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    if WORK_STATE in entries:  # the audio of a work folder was made by the model, so it is not a recording
        return
    if has_suffix and not entries:
        yield path, ("not_a_file", "is an empty folder, not a file")
    for entry in entries:
        if not entry.startswith("."):
            yield from _walk(os.path.join(path, entry), seen)


def _walk_remote(url: str) -> tuple[set[str], list[str]]:
    """Finds the audio at a URL: one object, all objects below a folder, or the matches of a pattern.

    Returns:
        The folders that the URL stands for, and the URLs of the objects.

    Raises:
        TfpipeError: nothing is there.
    """
    bucket = "/".join(url.split("/")[:3])
    if glob.has_magic(bucket):
        raise TfpipeError(f"{url}: a pattern cannot stand for the bucket; give the bucket's full name")
    root = parent(_WILDCARD.split(url)[0]) if glob.has_magic(url) else url
    with translate_os_errors(url):
        if url != bucket and remote.exists(url):
            return {parent(url)}, [url]
        listing = [path for path, _ in remote.match(f"{glob.escape(root)}/**")]
    pattern = re.compile(f"{re.escape(url)}|{_glob_regex(url)}", re.DOTALL)
    matched = {path: top for path in listing if (top := _matched_part(path, pattern, len(root))) is not None}
    if not matched:
        raise TfpipeError(f"{url}: nothing is there; check the name of the bucket and the path")
    work = tuple(f"{parent(path)}/" for path in matched if posixpath.basename(path) == WORK_STATE)
    paths = [
        path
        for path, top in matched.items()
        if path.lower().endswith(_AUDIO_SUFFIXES)
        and not path.startswith(work)
        and "/." not in path[len(top if "/." in url else root) :]
    ]
    return {parent(path) if top == path else top for path, top in matched.items()}, paths


def _matched_part(path: str, pattern: re.Pattern[str], first: int) -> str | None:
    """Returns the file or folder on the way to `path` that a pattern matches; the shortest one if there are several.

    For `s3://b/x/y/a.wav` and the pattern `s3://b/*` this is `s3://b/x`. It ends before a `/` at or after position
    `first`, or it is the whole path.
    """
    ends = [*(place for place in range(first, len(path)) if path[place] == "/"), len(path)]
    return next((path[:end] for end in ends if pattern.fullmatch(path, 0, end)), None)


def _glob_regex(pattern: str) -> str:
    """Returns a glob pattern as a regular expression, with the meaning of `**` in `glob.glob`."""
    parts = _WILDCARD.split(pattern)
    for place in range(1, len(parts), 2):
        parts[place] = _WILDCARD_REGEX.get(parts[place]) or parts[place].replace("\\", r"\\").replace("[!", "[^", 1)
    parts[::2] = map(re.escape, parts[::2])
    return "".join(parts)
