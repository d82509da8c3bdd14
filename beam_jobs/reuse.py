"""What an earlier dataset, or a job that was killed, has already found and computed.

A file whose bytes are known is not decoded again, and an example whose key
stands in an older shard is copied. Both hold only where settings and tool
versions are the same, so that the dataset is the one that a clean run gives.
Loads no Beam for local folders.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_jobs.corpus import AudioFile
from beam_jobs.scan import Scan, file_stamp
from tfpipe.data.manifest import Manifest, Skipped
from tfpipe.data.records import Example, decode_example, read_records
from tfpipe.errors import AudioError, DatasetError
from tfpipe.files.remote import is_remote, join

SCANS = ".scans.jsonl"
PART = ".part"
_HIGHEST_KEY = "\x7f"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of finished examples in key order.

    Attributes:
        path: the file; whatever follows a damaged record is not used.
        first: key of its first example.
        last: key of its last one, or something above it.
    """

    path: str
    first: str
    last: str


class Earlier:
    """Hands out examples of the sources, for keys that only go up.

    Args:
        sources: files to look in.
        mel_shape: shape of the examples.
    """

    def __init__(self, sources: Iterable[Source], mel_shape: tuple[int, int]) -> None:
        self._streams = [_examples(source.path, mel_shape) for source in sources]
        self._heads = [next(stream, None) for stream in self._streams]

    def take(self, key: str) -> Example | None:
        """Returns the example of a key, if a source has it."""
        found = None
        for index, stream in enumerate(self._streams):
            head = self._heads[index]
            while head is not None and head.key < key:
                head = next(stream, None)
            self._heads[index] = head
            if head is not None and head.key == key:
                found = head
        return found


def sources_of(manifest: Manifest, folder: str) -> list[Source]:
    """Returns a dataset's shards as sources."""
    return [
        Source(path=join(folder, shard.name), first=shard.first, last=shard.last)
        for shard in manifest.shards
        if shard.first
    ]


def left_behind(folder: Path, mel_shape: tuple[int, int]) -> list[Source]:
    """Returns what a killed job left in its work folder, finished shards and parts of shards."""
    found = []
    for path in sorted([*folder.glob("*.tfrecord"), *folder.glob(f"*{PART}")]):
        with contextlib.suppress(OSError, ValueError, KeyError, DatasetError):
            note = json.loads(Path(f"{path}.json").read_bytes()) if path.suffix == ".tfrecord" else {}
            if first := note.get("first") or _first_key(path, mel_shape):
                found.append(Source(path=str(path), first=first, last=note.get("last", _HIGHEST_KEY)))
    return found


def overlapping(sources: Iterable[Source], first: str, last: str) -> tuple[Source, ...]:
    """Returns the sources that may hold keys from `first` to `last`."""
    return tuple(source for source in sources if source.first <= last and source.last >= first)


def scan_line(scan: Scan) -> str:
    """Returns a scan as a JSON line."""
    skipped = None if scan.skipped is None else [scan.skipped.code, scan.skipped.message]
    row = {"path": scan.file.path, "skipped": skipped}
    for name in ("hash", "stamp", "seconds", "starts", "silent", "unused_s"):
        row[name] = getattr(scan, name)
    return json.dumps(row) + "\n"


def log_scan(scratch: str, scan_digest: str, scan: Scan) -> None:
    """Notes a finished scan for the next job, should this one be killed."""
    with open(f"{scratch}/scans-{scan_digest}-{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(scan_line(scan))


def logged_scans(scratch: str, scan_digest: str) -> Iterator[Scan]:
    """Yields the scans that killed jobs noted."""
    for path in sorted(Path(scratch).glob(f"scans-{scan_digest}-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            yield from read_scans(file)


def read_scans(lines: Iterable[str]) -> Iterator[Scan]:
    """Yields the scans of `scan_line`s; a line that a kill cut short is passed over."""
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row: dict[str, Any] = json.loads(line)
            file = AudioFile(name="", path=row.pop("path"), label="")
            skipped = row.pop("skipped")
            row["skipped"] = skipped and Skipped(path="", code=skipped[0], message=skipped[1])
            yield Scan(file=file, **{**row, "stamp": tuple(row["stamp"]), "starts": tuple(row["starts"])})


def match_scans(scans: Iterable[Scan], files: Iterable[AudioFile]) -> Mapping[str, Scan]:
    """Returns by path what is known of a corpus' files: of the same path, else of the same size and time (renamed).

    Whether a file still has that content is for `scan_track` to find out.
    """
    by_path: dict[str, Scan] = {}
    by_stamp: dict[tuple[int, int], Scan] = {}
    for scan in scans:
        by_path[scan.file.path] = by_stamp[scan.stamp] = scan
    found = {}
    for file in files:
        if (known := by_path.get(file.path) or by_stamp.get(_stamp(file.path) or (-1, -1))) is not None:
            found[file.path] = known
    return found


def _stamp(path: str) -> tuple[int, int] | None:
    if is_remote(path):
        return None  # a request for each file, for what is rare
    try:
        return file_stamp(path)
    except AudioError:
        return None


def _first_key(path: Path, mel_shape: tuple[int, int]) -> str:
    return next((example.key for example in _examples(str(path), mel_shape)), "")


def _examples(path: str, mel_shape: tuple[int, int]) -> Iterator[Example]:
    """Yields examples up to the first damage."""
    with contextlib.suppress(DatasetError, OSError):
        for data in read_records(path):
            yield decode_example(data, mel_shape)
