"""The plan folder: what the steps of one job write for each other and for the publication, in small text files.

    files.jsonl                  the files to scan, in the order of the corpus; workers read blocks of its lines
    splits.jsonl                 the splits to keep, by content hash
    scans-FIRST.jsonl            what each file of a block gave, in the order of the corpus
    tracks-SPLIT-RANGE.jsonl     lines of tracks.jsonl
    skipped-PART.jsonl           lines of skipped.jsonl, of neighbours in the order of the corpus
    kept-RANGE.jsonl             rows of content hash and kept split, for the digest of the input
    plan.json, shards.json       the labels, and all shards

No process holds more than one block or one range of the tracks. Everything is
JSON: whoever can write into the output folder must not be able to run code.
Each run has a plan folder of its own, so a run never reads parts that a killed job left behind.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from beam_jobs import files
from beam_jobs.corpus import AudioFile
from beam_jobs.payload import Block, Job
from beam_jobs.reuse import read_scans, scan_line
from beam_jobs.scan import Scan
from tfpipe.data.manifest import Skipped, Track, lines
from tfpipe.errors import translate_os_errors
from tfpipe.files import remote

FILES, SPLITS_FILE, PLAN, SHARDS = "files.jsonl", "splits.jsonl", "plan.json", "shards.json"
# A corpus is cut into this many blocks of files if it is large enough, so that many workers can scan.
_WANTED_BLOCKS = 256
# No block has more files than this, because a worker that dies loses its block.
_MOST_IN_BLOCK = 1000
# The scans get the splits to keep if there are no more than this. Without them, a scan may make examples of the wrong
# split, which costs time only.
_MOST_SPLITS = 10_000


def stage(job: Job) -> Job:
    """Writes the files to scan into the plan folder; returns the job without them, which is small for any corpus.

    Raises:
        TfpipeError: the plan folder cannot be written.
    """
    corpus = job.corpus
    rows = (_file_row(file, job.known.get(file.path)) for file in corpus.files)
    blocks = _write_blocks(part(job, FILES), rows, total=len(corpus.files))
    # A list of splits may hold hashes of another kind, which no file has.
    splits = {content: split for content, split in corpus.splits.items() if re.fullmatch("[0-9a-f]{64}", content)}
    kept = _write_blocks(part(job, SPLITS_FILE), map(list, splits.items()), total=len(splits))
    return dataclasses.replace(
        job,
        corpus=dataclasses.replace(
            corpus, files=(), splits=corpus.splits if len(corpus.splits) <= _MOST_SPLITS else {}
        ),
        known={},
        files=len(corpus.files),
        blocks=blocks,
        split_blocks=kept,
        has_groups=any(file.group for file in corpus.files),
    )


def part(job: Job, name: str) -> str:
    """Returns the path of a file in the plan folder."""
    return remote.join(job.plan_folder, name)


def read_files(job: Job, block: Block) -> Iterator[tuple[int, AudioFile, Scan | None]]:
    """Yields the number of each file of a block in the corpus, the file, and what is known of it."""
    for number, row in enumerate(_read_block(part(job, FILES), block), block.first):
        known = next(read_scans([row["known"]]), None) if row["known"] else None
        yield number, AudioFile(*row["file"]), known


def read_splits(job: Job, block: Block) -> list[tuple[str, str]]:
    """Returns the content hashes of a block and the splits that they keep."""
    return [(content, split) for content, split in _read_block(part(job, SPLITS_FILE), block)]


def write_scans(job: Job, block: Block, scans: Iterable[Scan]) -> None:
    """Writes the scans of a block, for the publication."""
    text = "".join(f"{input_row(scan.file, scan.hash)}\t{scan_line(scan)}" for scan in scans)
    files.write(part(job, f"scans-{block.first:010d}.jsonl"), text.encode("utf-8", "surrogateescape"))


def read_scan_lines(job: Job, names: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the `input_row` and the `scan_line` of every file, in the order of the corpus."""
    for line in read_lines(job, (name for name in names if name.startswith("scans-"))):
        row, _, scan = line.partition(b"\t")
        yield row, scan


def input_row(file: AudioFile, content: str) -> str:
    """Returns a row for a file as JSON; the digest of the input is computed over such rows."""
    return json.dumps([file.name, file.label, file.group, content], ensure_ascii=False)


def split_row(content: str, split: str) -> str:
    """Returns a row of content hash and split as JSON; the digest of the input is computed over such rows."""
    return json.dumps([content, split], ensure_ascii=False)


def write_rows(job: Job, name: str, rows: Iterable[str]) -> None:
    """Writes rows, each as one line, into a part; no rows make no part."""
    if text := "".join(f"{row}\n" for row in rows):
        files.write(part(job, name), text.encode("utf-8", "surrogateescape"))


def row_lines(rows: Sequence[Track] | Sequence[Skipped]) -> list[str]:
    """Returns rows of `tracks.jsonl` or `skipped.jsonl`, each as one line."""
    return lines(rows).decode().splitlines()


def write_plan(job: Job, labels: Iterable[str]) -> None:
    """Writes what the publication needs of the plan besides the rows."""
    files.write(part(job, PLAN), json.dumps({"labels": list(labels)}).encode())


def read_json(job: Job, name: str) -> Any:
    """Reads a part that is one JSON value."""
    return json.loads(files.read(part(job, name)))


def read_lines(job: Job, names: Iterable[str]) -> Iterator[bytes]:
    """Yields the lines of parts, one part after the other."""
    for name in names:
        with translate_os_errors(name), remote.open_read(part(job, name)) as file:
            yield from file


def _file_row(file: AudioFile, known: Scan | None) -> dict[str, Any]:
    row = [file.name, file.path, file.label, file.group, file.split]
    return {"file": row, "known": None if known is None else scan_line(known)}


def _write_blocks(path: str, rows: Iterable[Any], *, total: int) -> tuple[Block, ...]:
    """Writes rows as JSON lines; returns where the blocks begin."""
    size = min(_MOST_IN_BLOCK, max(1, total // _WANTED_BLOCKS))
    found: list[Block] = []
    if not total:
        return ()
    with files.create(path) as file:
        place = 0
        for number, row in enumerate(rows):
            if number % size == 0:
                found.append(Block(first=number, offset=place, lines=min(size, total - number)))
            place += _write_line(file, row)
    return tuple(found)


def _write_line(file: BinaryIO, row: Any) -> int:
    line = (json.dumps(row) + "\n").encode()
    file.write(line)
    return len(line)


def _read_block(path: str, block: Block) -> Iterator[Any]:
    with translate_os_errors(path), remote.open_read(path) as file:
        file.seek(block.offset)
        for _ in range(block.lines):
            yield json.loads(file.readline())
