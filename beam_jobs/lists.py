"""Lists of recordings: `.csv` and `.jsonl` files that give a label, a group or a split to each path."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from tfpipe.data.manifest import SPLITS
from tfpipe.errors import TfpipeError, translate_os_errors
from tfpipe.files import remote
from tfpipe.files.remote import is_remote

_SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        path: absolute path or URL of the recording.
        label: label of the recording; empty where the list gives none.
        group: group of the recording; empty where the list gives none.
        where: file and line number, for messages.
        split: split of the recording; empty where the list gives none.
    """

    path: str
    label: str
    group: str
    where: str
    split: str = ""


def is_list(path: str) -> bool:
    """Tells whether an input is an existing list instead of audio."""
    with translate_os_errors(path):
        return path.lower().endswith(_SUFFIXES) and remote.exists(path)


def read_lists(paths: Iterable[str], *, needed: tuple[str, ...]) -> dict[str, Entry]:
    """Reads lists into one mapping from the recording's path to its entry.

    Args:
        paths: the list files. Relative paths in a list count from the list's folder.
        needed: columns that each line must fill, such as `("path", "label")`.

    Raises:
        TfpipeError: a line is wrong, or two lines give one path different labels, groups or splits; names the line.
    """
    found: dict[str, Entry] = {}
    for entry in (entry for path in paths for entry in _read(path, needed)):
        other = found.setdefault(entry.path, entry)
        if (other.label, other.group, other.split) != (entry.label, entry.group, entry.split):
            raise TfpipeError(
                f"{entry.where}: {entry.path} has another label, group or split than at {other.where}; keep one"
            )
    return found


def absolute(path: str) -> str:
    """Returns a path or URL in the one spelling by which recordings are compared."""
    if not is_remote(path):
        return os.path.abspath(path)
    scheme, _, place = path.partition("://")
    return f"{scheme}://{posixpath.normpath(place)}"


def parent(path: str) -> str:
    """Returns the folder of a path or URL; for an object at the top of a bucket this is the bucket."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path)


def _read(path: str, needed: tuple[str, ...]) -> Iterator[Entry]:
    if not path.lower().endswith(_SUFFIXES):
        raise TfpipeError(f"{path}: not a list; give a .csv or .jsonl file")
    with translate_os_errors(path), remote.open_read(path) as binary:
        file = io.TextIOWrapper(binary, newline="", encoding="utf-8-sig", errors="surrogateescape")
        rows = _jsonl_rows(path, file) if path.lower().endswith(".jsonl") else _csv_rows(path, file, needed)
        for where, row in rows:
            yield _entry(row, where=where, folder=parent(absolute(path)), needed=needed)


def _entry(row: dict[str, Any], *, where: str, folder: str, needed: tuple[str, ...]) -> Entry:
    for name in (*needed, *({"group", "split"} & row.keys())):
        if not isinstance(row.get(name), str) or (name in needed and not row[name].strip()):
            raise TfpipeError(f"{where}: no text for {name!r}; each line needs {' and '.join(needed)}")
    if not all(_is_valid_name(row.get(name, "")) for name in ("path", "label", "group", "split")):
        raise TfpipeError(f"{where}: holds a character that no file name can have; check that this file is a list")
    place = os.path.expanduser(row["path"])
    if not is_remote(place):
        place = os.path.join(folder, place)
    label, group, split = (str(row.get(name, "")).strip() for name in ("label", "group", "split"))
    if split not in ("", *SPLITS):
        raise TfpipeError(f"{where}: split {split!r} is unknown; use {', '.join(SPLITS)}, or leave it empty")
    return Entry(absolute(place), label, group, where, split)


def _is_valid_name(text: str) -> bool:
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
            where = f"{path}:{reader.line_num}"
            if None in row:
                raise TfpipeError(f"{where}: more values than columns; put a path with commas in quotes")
            yield where, {name: value for name, value in row.items() if value is not None}
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
