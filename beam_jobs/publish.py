"""Turns what the pipeline wrote into the dataset folder; `dataset.json` is written last."""

from __future__ import annotations

import functools
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from beam_jobs import files, parts
from beam_jobs.input_digest import input_digest
from beam_jobs.payload import Job
from beam_jobs.reuse import SCANS
from beam_jobs.shards import shard_path
from beam_jobs.versions import versions
from tfpipe.data.croissant import CROISSANT, describe
from tfpipe.data.manifest import MANIFEST, SKIPPED, SPLITS, TRACKS, Manifest, Skipped, read_shard
from tfpipe.files import remote
from tfpipe.files.storage import sha256_file

# Files that are removed or renamed at the same time. An object store copies a file to rename it, which takes a while.
_MOVERS = 16


def publish(job: Job) -> None:
    """Makes the dataset of the work folder and the plan folder, and removes both.

    An older dataset in the output folder stays complete until its manifest is removed here. The text files are
    copied row by row, so memory does not grow with the number of tracks; only the list of shards is held.

    Raises:
        TfpipeError: the output folder cannot be written.
    """
    if not job.config.is_remote:
        files.remove_folder(job.early_folder)  # all shards are written, and the text files may need the space
    names = sorted(remote.sizes(job.plan_folder))
    shards = parts.read_json(job, parts.SHARDS)
    digest = write_rows(job, names)
    manifest = Manifest(
        spec=job.config.spec,
        labels=tuple(parts.read_json(job, parts.PLAN)["labels"]),
        shards=tuple(read_shard(shard) for _, shard in shards),
        config={
            **job.config.to_dict(),
            "digest": job.config.digest,
            "example_digest": job.example_digest,
            "scan_digest": job.scan_digest,
            "input": digest,
            "base": job.corpus.base,
        },
        versions=versions(),
    )
    described = {name: _size_and_checksum(parts.part(job, name)) for name in (TRACKS, SKIPPED)}
    output = functools.partial(remote.join, job.config.output)
    made = [shard_path(job.work, made) for made, _ in shards]
    files.remove(output(MANIFEST))
    with ThreadPoolExecutor(_MOVERS) as pool:
        _finish(pool.map(files.remove, map(output, files.shard_names(job.config.output))))
        _finish(pool.map(files.move, made, [output(shard.name) for shard in manifest.shards]))
        _finish(pool.map(lambda name: files.move(parts.part(job, name), output(name)), (TRACKS, SKIPPED, SCANS)))
    files.write(output(CROISSANT), describe(manifest, files=described))
    files.write(output(MANIFEST), (json.dumps(manifest.to_dict(), indent=2, sort_keys=True) + "\n").encode())
    files.remove_folder(job.scratch)


def write_rows(job: Job, names: Sequence[str]) -> str:
    """Puts the rows of the parts into one file each, in the plan folder; returns the digest of the job's input.

    Args:
        job: the job.
        names: names of all parts, sorted.
    """
    with ExitStack() as stack:
        scans, tracks, skipped = (
            stack.enter_context(files.create(parts.part(job, name))) for name in (SCANS, TRACKS, SKIPPED)
        )

        def input_rows() -> Iterator[bytes]:
            for row, scan in parts.read_scan_lines(job, names):
                scans.write(scan)
                yield row

        splits = (line.rstrip(b"\n") for line in parts.read_lines(job, _named(names, "kept-")))
        digest = input_digest(input_rows(), skipped=job.corpus.skipped, splits=splits)
        for split in SPLITS:
            tracks.writelines(parts.read_lines(job, _named(names, f"tracks-{split}-")))
        early = (f"{line}\n".encode() for line in parts.row_lines(job.corpus.skipped))
        late = parts.read_lines(job, _named(names, "skipped-"))
        skipped.writelines(heapq.merge(early, late, key=_path))
    return digest


def _size_and_checksum(path: str) -> tuple[int, str]:
    return remote.stamp(path)[0], sha256_file(path)


def _named(names: Iterable[str], start: str) -> list[str]:
    return [name for name in names if name.startswith(start)]


def _path(line: bytes) -> str:
    return Skipped(**json.loads(line)).path


def _finish(results: Iterable[None]) -> None:
    """Waits for all results; raises the first error."""
    for _ in results:
        pass
