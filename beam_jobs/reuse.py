"""Reuses what an older dataset, or a job that was killed, has already found and computed.

A file whose bytes are known is not decoded again, and an example whose key is
in an older shard is copied. Both happen only if settings and tool versions are
the same, so the result is the dataset that a clean run makes. Loads no Beam
for local folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs import files
from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile
from beam_jobs.early import least_free
from beam_jobs.payload import Job, Source
from beam_jobs.scan import Scan, file_stamp
from tfpipe.data.manifest import Manifest, Skipped
from tfpipe.data.records import Example, decode_example, read_records
from tfpipe.errors import AudioError, DatasetError, translate_os_errors
from tfpipe.files import remote
from tfpipe.files.remote import is_remote, join
from tfpipe.files.storage import remove_leftovers

SCANS = ".scans.jsonl"
_PART = ".part"
# Larger than any key.
_HIGHEST_KEY = "\x7f"


class EarlierExamples:
    """Looks up examples in sources, for keys that are asked for in ascending order.

    Args:
        sources: files to look in.
        mel_shape: shape of the examples' mels, `(mels, frames)`.
    """

    def __init__(self, sources: Iterable[Source], mel_shape: tuple[int, int]) -> None:
        self._streams = [_examples(source.path, mel_shape) for source in sources]
        self._heads = [next(stream, None) for stream in self._streams]

    def take(self, key: str) -> Example | None:
        """Returns the example of a key, or None if no source has it."""
        found = None
        for index, stream in enumerate(self._streams):
            head = self._heads[index]
            while head is not None and head.key < key:
                head = next(stream, None)
            self._heads[index] = head
            if head is not None and head.key == key:
                found = head
        return found


def salvage(job: Job) -> None:
    """Keeps what a killed job left in the scratch folder if this job can use it, and removes the rest."""
    if job.config.is_remote:
        files.remove_unfinished(job.config.output, job.work)
        for folder in files.folders(job.scratch, "plan-"):  # of jobs that were killed or failed
            files.remove_folder(folder)
        return
    work, scratch = Path(job.work), Path(job.scratch)
    with translate_os_errors(scratch):
        work.mkdir(parents=True, exist_ok=True)
        remove_leftovers(job.early_folder)
        for path in scratch.iterdir():
            if path.is_dir() and path != work:
                shutil.rmtree(path)
        for path in work.glob("*.tmp-*"):
            name = path.name.removeprefix(".").partition(".tmp-")[0]
            part = path.with_name(f"{name.partition('.')[0]}{_PART}")
            if name.endswith(".tfrecord") and _size(path) > _size(part):
                path.replace(part)
            else:
                path.unlink()


def with_earlier(job: Job, manifest: Manifest | None, recorded: Sequence[Scan]) -> Job:
    """Returns the job with the scans and examples that it may reuse.

    Args:
        job: the job.
        manifest: the manifest of the dataset in the output folder, or None.
        recorded: the scans that this dataset keeps (`recorded_scans`).
    """
    config, made = job.config, manifest.config if manifest else {}
    scans: list[Scan] = []
    sources: list[Source] = []
    if manifest and made.get("scan_digest") == job.scan_digest:
        scans += recorded
    if manifest and made.get("example_digest") == job.example_digest:
        sources += _shards_of(manifest, config.output)
    if not config.is_remote:
        scans += _logged_scans(job.scratch, job.scan_digest)
        sources += _left_behind(Path(job.work), config.spec.mel_shape)
    known = _match_scans(scans, job.corpus.files)
    return dataclasses.replace(job, known=known, sources=tuple(sources), least_free=_least_free(job, known, sources))


def _least_free(job: Job, known: Mapping[str, Scan], sources: Sequence[Source]) -> int | None:
    """Returns `Job.least_free`: None for a bucket, and if the examples are there but their scans are lost."""
    if job.config.is_remote or (sources and not known):
        return None
    held = sum(remote.sizes(job.early_folder).values())
    return least_free(job.scratch, most=job.config.scratch_gib * 2**30, held=held)


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
    """Appends a finished scan to a file in the scratch folder, for the next job in case this one is killed."""
    with open(f"{scratch}/scans-{scan_digest}-{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(scan_line(scan))


def recorded_scans(config: PreprocessConfig) -> list[Scan]:
    """Returns the scans that the dataset in the output folder keeps; none if that file is lost."""
    try:
        with io.TextIOWrapper(remote.open_read(join(config.output, SCANS)), encoding="utf-8") as file:
            return list(read_scans(file))
    except OSError:
        return []


def read_scans(lines: Iterable[str]) -> Iterator[Scan]:
    """Yields the scans of `scan_line`s; skips a line that is incomplete because its job was killed."""
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row: dict[str, Any] = json.loads(line)
            file = AudioFile(name="", path=row.pop("path"), label="")
            skipped = row.pop("skipped")
            row["skipped"] = skipped and Skipped(path="", code=skipped[0], message=skipped[1])
            yield Scan(file=file, **{**row, "stamp": tuple(row["stamp"]), "starts": tuple(row["starts"])})


def _logged_scans(scratch: str, scan_digest: str) -> Iterator[Scan]:
    """Yields the scans that killed jobs wrote with `log_scan`."""
    for path in sorted(Path(scratch).glob(f"scans-{scan_digest}-*.jsonl")):
        with open(path, encoding="utf-8") as file:
            yield from read_scans(file)


def _match_scans(scans: Iterable[Scan], files: Iterable[AudioFile]) -> Mapping[str, Scan]:
    """Returns the known scan of each file by its path: of the same path, else of the same size and time (renamed).

    The file may have other content by now; `scan_track` checks that.
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


def _shards_of(manifest: Manifest, folder: str) -> list[Source]:
    return [
        Source(path=join(folder, shard.name), first=shard.first, last=shard.last)
        for shard in manifest.shards
        if shard.first
    ]


def _left_behind(folder: Path, mel_shape: tuple[int, int]) -> list[Source]:
    """Returns the finished shards and the parts of shards that a killed job left in its work folder."""
    found = []
    for path in sorted([*folder.glob("*.tfrecord"), *folder.glob(f"*{_PART}")]):
        with contextlib.suppress(OSError, ValueError, KeyError, DatasetError):
            note = json.loads(Path(f"{path}.json").read_bytes()) if path.suffix == ".tfrecord" else {}
            if first := note.get("first") or _first_key(path, mel_shape):
                found.append(Source(path=str(path), first=first, last=note.get("last", _HIGHEST_KEY)))
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stamp(path: str) -> tuple[int, int] | None:
    if is_remote(path):
        return None  # renamed objects are rare, and each look costs a request
    try:
        return file_stamp(path)
    except AudioError:
        return None


def _first_key(path: Path, mel_shape: tuple[int, int]) -> str:
    return next((example.key for example in _examples(str(path), mel_shape)), "")


def _examples(path: str, mel_shape: tuple[int, int]) -> Iterator[Example]:
    """Yields examples up to the first damaged record."""
    with contextlib.suppress(DatasetError, OSError):
        for data in read_records(path):
            yield decode_example(data, mel_shape)
