"""Finding the audio files of a corpus: folders, files, globs and lists, local or at URLs.

Local files are decided by content. In a bucket names decide, since each look
into an object is a request of its own: below a folder or under a pattern,
objects named as audio are taken; one that is given by its own URL, or in a
list, is taken whatever its name.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import json
import os
import posixpath
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from tfpipe.audio.reader import is_audio
from tfpipe.data.manifest import Skipped, load_tracks
from tfpipe.errors import TfpipeError, os_error_message, translate_os_errors
from tfpipe.files import remote
from tfpipe.files.remote import is_remote

# Names that claim to be audio: such a file is reported when it cannot be used. Any
# other file is taken when its content is audio and passed over silently when it is not.
_AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".bwf", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".flac", ".alac"),
    *(".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mka"),
    *(".amr", ".ape", ".wv", ".3gp", ".voc", ".sd2"),
)
_LIST_SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True, order=True)
class AudioFile:
    """A file that is, or claims to be, audio.

    Attributes:
        name: path relative to the corpus' base folder, with `/`.
        path: where to open it, a local path or a URL.
        label: name of its parent folder, or what a list says.
        group: tracks of one group lie in one split; empty for none.
    """

    name: str
    path: str
    label: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What was found.

    Attributes:
        base: folder that all names are relative to: the input folder, or what several inputs share;
            empty where they share nothing (two buckets, or one and a local folder), and names are whole paths.
        files: sorted by name, each path once.
        skipped: things named as audio that are no regular files, and folders that cannot be read.
        splits: by content hash, the assignments of an older dataset, to be kept.
    """

    base: str
    files: tuple[AudioFile, ...]
    skipped: tuple[Skipped, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    """A line of a list; `where` is the list and the line's number, for messages."""

    path: str
    label: str
    group: str
    where: str


_MAGIC = re.compile(r"(/\*\*(?=/)|\*\*|\*|\?|\[!?[^]!][^]]*\])")
_WILD = {"/**": "(?:/.*)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
# The state file of `tfpipe.workflow.stages`.
_WORK_MARK = "stages.json"


def discover(inputs: Iterable[str], *, groups: str | None = None, splits_from: str | None = None) -> Corpus:
    """Finds the audio files under `inputs`.

    Folders are read recursively without hidden files, each folder once, so
    that links that loop end. Only regular files are opened. A list says label
    and group of its files itself, also of those that another input holds.

    Args:
        inputs: folders, single files, globs (`**` is recursive), or lists: `.csv` with a
            header or `.jsonl`, with path (relative to the list's folder), label and perhaps group.
            All of them, and the paths in lists, may be URLs.
        groups: list of path and group; rules over the groups in `inputs`.
        splits_from: older dataset whose tracks keep their splits.

    Raises:
        TfpipeError: an input or the older dataset is missing, a list is wrong, or nothing there is audio.
    """
    inputs = [os.path.expanduser(entry) for entry in inputs]
    lists = [entry for entry in inputs if _is_list(entry)]
    listed = _by_path(entry for path in lists for entry in _read_list(path, needed=("path", "label")))
    others = [entry for entry in inputs if entry not in lists]
    roots = {os.path.abspath(root) for entry in others if not is_remote(entry) for root in _expand(entry)}
    folders = {root if os.path.isdir(root) else os.path.dirname(root) for root in roots}
    folders |= {_dirname(_absolute(path)) for path in [*lists, *listed]}
    seen: set[tuple[int, int]] = set()
    found = [*(item for root in sorted(roots) for item in _walk(root, seen)), *map(_check, listed.values())]
    for entry in filter(is_remote, others):
        tops, paths = _walk_remote(_absolute(entry))
        folders |= tops
        found += [(path, None) for path in paths]
    base = _base(folders)
    files: dict[str, AudioFile] = {}
    skipped: dict[str, Skipped] = {}
    for path, error in found:
        name = _name(path, base)
        if error is not None:
            skipped[path] = Skipped(path=name, code=error[0], message=f"{path}: {error[1]}")
        elif path in listed:
            files[path] = AudioFile(name, path, listed[path].label, listed[path].group)
        else:
            files[path] = AudioFile(name, path, os.path.basename(_dirname(path)) or "unlabelled")
    if not files and not skipped:
        raise TfpipeError(f"{', '.join(inputs)}: no audio files here; give a folder with wav, flac, ogg or mp3 files")
    if groups is not None:
        _group(files, skipped, os.path.expanduser(groups))
    return Corpus(
        base=base,
        files=tuple(sorted(files.values())),
        skipped=tuple(sorted(skipped.values(), key=lambda row: row.path)),
        splits={track.hash: track.split for track in load_tracks(splits_from)} if splits_from else {},
    )


def _absolute(path: str) -> str:
    """Returns one spelling for a path or URL."""
    if not is_remote(path):
        return os.path.abspath(path)
    scheme, _, place = path.partition("://")
    return f"{scheme}://{posixpath.normpath(place)}"


def _dirname(path: str) -> str:
    """Returns the folder of a path; an object right in its bucket has the bucket."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)


def _base(folders: Collection[str]) -> str:
    schemes = {folder.partition("://")[0] if is_remote(folder) else "" for folder in folders}
    if schemes == {""}:
        return os.path.commonpath(folders)
    common = posixpath.commonpath([folder.partition("://")[2] for folder in folders]) if len(schemes) == 1 else ""
    return f"{schemes.pop()}://{common}" if common else ""


def _name(path: str, base: str) -> str:
    if not base:
        return path
    return path.removeprefix(base).lstrip("/") if is_remote(base) else os.path.relpath(path, base)


def _is_list(entry: str) -> bool:
    with translate_os_errors(entry):
        return entry.lower().endswith(_LIST_SUFFIXES) and remote.exists(entry)


def _read_list(path: str, *, needed: tuple[str, ...]) -> Iterator[_Entry]:
    """Yields the lines of a `.csv` or `.jsonl` file.

    Raises:
        TfpipeError: naming the line.
    """
    if not path.lower().endswith(_LIST_SUFFIXES):
        raise TfpipeError(f"{path}: not a list; give a .csv or .jsonl file")
    with translate_os_errors(path), remote.open_read(path) as binary:
        file = io.TextIOWrapper(binary, newline="", encoding="utf-8-sig", errors="surrogateescape")
        rows = _jsonl_rows(path, file) if path.lower().endswith(".jsonl") else _csv_rows(path, file, needed)
        for where, row in rows:
            for name in (*needed, *({"group"} & row.keys())):
                if not isinstance(row.get(name), str) or (name in needed and not row[name].strip()):
                    raise TfpipeError(f"{where}: no text for {name!r}; each line needs {' and '.join(needed)}")
            if any(not _can_be_named(row.get(name, "")) for name in ("path", "label", "group")):
                raise TfpipeError(f"{where}: holds a character that no name can have; is this file really a list?")
            place = os.path.expanduser(row["path"])
            if not is_remote(place):
                place = os.path.join(_dirname(_absolute(path)), place)
            label, group = (str(row.get(name, "")).strip() for name in ("label", "group"))
            yield _Entry(_absolute(place), label, group, where)


def _can_be_named(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _csv_rows(path: str, file: TextIO, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
            raise TfpipeError(
                f"{path}:1: no column {missing[0]!r}; the first line must name the columns, such as path,label,group"
            )
        for row in reader:
            if None in row:
                raise TfpipeError(
                    f"{path}:{reader.line_num}: more values than columns; put a path with commas in quotes"
                )
            yield f"{path}:{reader.line_num}", {name: value for name, value in row.items() if value is not None}
    except csv.Error as error:
        raise TfpipeError(f"{path}:{reader.reader.line_num}: not CSV ({error})") from error


def _jsonl_rows(path: str, file: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TfpipeError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise TfpipeError(f'{path}:{number}: not an object such as {{"path": "a.wav", "label": "Piano"}}')
        yield f"{path}:{number}", {name: value for name, value in row.items() if value is not None}


def _by_path(entries: Iterable[_Entry]) -> dict[str, _Entry]:
    """Keeps each path once.

    Raises:
        TfpipeError: a path has two labels or groups.
    """
    found: dict[str, _Entry] = {}
    for entry in entries:
        other = found.setdefault(entry.path, entry)
        if (other.label, other.group) != (entry.label, entry.group):
            raise TfpipeError(f"{entry.where}: {entry.path} has another label or group than at {other.where}; keep one")
    return found


def _check(entry: _Entry) -> tuple[str, tuple[str, str] | None]:
    """Returns a listed path as `_walk` gives it; a missing object turns up when it is read."""
    if is_remote(entry.path):
        return entry.path, None
    try:
        status = os.stat(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return entry.path, ("missing", f"no such file, which {entry.where} names")
    except OSError as error:
        return entry.path, ("unreadable", os_error_message(error, entry.path).removeprefix(f"{entry.path}: "))
    if not stat.S_ISREG(status.st_mode):
        return entry.path, ("not_a_file", f"is not a regular file; {entry.where} names it")
    return entry.path, None


def _group(files: dict[str, AudioFile], skipped: Mapping[str, Skipped], groups: str) -> None:
    """Puts the groups of a list on the files.

    Raises:
        TfpipeError: it names a file that is not there: a slip of the pen would let a group fall apart unseen.
    """
    for path, entry in _by_path(_read_list(groups, needed=("path", "group"))).items():
        if path in files:
            files[path] = dataclasses.replace(files[path], group=entry.group)
        elif path not in skipped:
            raise TfpipeError(f"{entry.where}: {path} is not among the input's audio files; mend or remove the line")


def _expand(entry: str) -> list[str]:
    if os.path.lexists(entry):
        return [entry]
    if not glob.has_magic(entry):
        raise TfpipeError(f"{entry}: no such file or folder; check the path")
    if not (matches := sorted(glob.glob(entry, recursive=True))):
        raise TfpipeError(f"{entry}: nothing matches; check the pattern")
    return matches


def _walk_remote(url: str) -> tuple[set[str], list[str]]:
    """Finds the audio at a URL: an object, all below a folder, or what a pattern matches.

    Returns:
        The folders that the URL stands for, and the URLs of the objects.

    Raises:
        TfpipeError: there is nothing.
    """
    bucket = "/".join(url.split("/")[:3])
    if glob.has_magic(bucket):
        raise TfpipeError(f"{url}: name the bucket in full; patterns are for what is in it")
    root = _dirname(_MAGIC.split(url)[0]) if glob.has_magic(url) else url
    with translate_os_errors(url):
        if url != bucket and remote.exists(url):
            return {_dirname(url)}, [url]
        listing = [path for path, _ in remote.match(f"{glob.escape(root)}/**")]
    pattern = re.compile(f"{re.escape(url)}|{_regex(url)}", re.DOTALL)
    matched = {path: top for path in listing if (top := _matched(path, pattern, len(root))) is not None}
    if not matched:
        raise TfpipeError(f"{url}: nothing is there; check the name of the bucket and the path")
    work = tuple(f"{_dirname(path)}/" for path in matched if posixpath.basename(path) == _WORK_MARK)
    paths = [
        path
        for path, top in matched.items()
        if path.lower().endswith(_AUDIO_SUFFIXES)
        and not path.startswith(work)
        and "/." not in path[len(top if "/." in url else root) :]
    ]
    return {_dirname(path) if top == path else top for path, top in matched.items()}, paths


def _matched(path: str, pattern: re.Pattern[str], first: int) -> str | None:
    """Returns the shortest beginning of a path, up to a `/` from `first` on or the end, that matches."""
    ends = [*(place for place in range(first, len(path)) if path[place] == "/"), len(path)]
    return next((path[:end] for end in ends if pattern.fullmatch(path, 0, end)), None)


def _regex(pattern: str) -> str:
    """Returns a glob pattern as a regular expression, `**` as in `glob.glob`."""
    parts = _MAGIC.split(pattern)
    for place in range(1, len(parts), 2):
        parts[place] = _WILD.get(parts[place]) or parts[place].replace("\\", r"\\").replace("[!", "[^", 1)
    parts[::2] = map(re.escape, parts[::2])
    return "".join(parts)


def _walk(path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Yields (path, None) for audio and (path, (code, message)) for what claims to be and cannot be."""
    claims_audio = path.lower().endswith(_AUDIO_SUFFIXES)
    try:
        status = os.stat(path)
        entries = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else None
    except OSError as error:
        if claims_audio or os.path.isdir(path):
            yield path, ("unreadable", os_error_message(error, path).removeprefix(f"{path}: "))
        return
    if entries is None:
        if not stat.S_ISREG(status.st_mode):
            if claims_audio:
                yield path, ("not_a_file", "is not a regular file")
        elif claims_audio or is_audio(path):
            yield path, None
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    if _WORK_MARK in entries:
        return  # a work folder of `tfpipe run`: its sounds are the model's, no recordings
    if claims_audio and not entries:
        yield path, ("not_a_file", "is an empty folder, not a file")
    for entry in entries:
        if not entry.startswith("."):
            yield from _walk(os.path.join(path, entry), seen)
