"""Writing one shard: decode, augment, encode, in key order, one window in memory at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

from apache_beam.io.filesystems import FileSystems

from beam_jobs import files
from beam_jobs.augment import cached_augmenter, open_windows
from beam_jobs.config import PreprocessConfig
from beam_jobs.plan import ShardPlan, ShardTrack, example_key
from beam_jobs.tracks import file_stamp
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.features import quantise
from tfpipe.manifest import Shard
from tfpipe.records import Example, encode_example, write_record
from tfpipe.remote import open_read
from tfpipe.storage import digest


def write_shard(
    plan: ShardPlan, *, config: PreprocessConfig, folder: str, job: str, on_examples: Callable[[int], None]
) -> Shard:
    """Writes one shard and a note of what is in it, or finds both left by a job that was killed.

    The file is named by what it holds, so another plan can never take it for its own.

    Args:
        plan: the references.
        config: the job.
        folder: work folder, local or remote.
        job: digest of all else that the bytes depend on (settings, tool versions).
        on_examples: called with the number of examples just finished.

    Raises:
        TfpipeError: a source file changed since it was scanned, or the shard cannot be written.
    """
    path = shard_path(folder, plan, job=job)
    if (done := _finished(path)) is not None:
        on_examples(done.examples)
        return dataclasses.replace(done, name=plan.name)
    examples, variants = 0, Counter[str]()
    with files.create(path) as file:
        output = _HashingWriter(file)
        for batch in _examples(plan, config):
            for example in batch:
                write_record(output, encode_example(example))
                variants[example.variant] += 1
            examples += len(batch)
            on_examples(len(batch))
    shard = Shard(
        name=plan.name,
        split=plan.split,
        examples=examples,
        bytes=output.size,
        sha256=output.sha256.hexdigest(),
        variants=dict(sorted(variants.items())),
    )
    files.write(f"{path}.json", json.dumps(dataclasses.asdict(shard)).encode())
    return shard


def shard_path(folder: str, plan: ShardPlan, *, job: str) -> str:
    """Returns where a shard stands in the work folder until the dataset is put together."""
    return FileSystems.join(folder, f"{digest([job, plan.split, plan.digest])}.tfrecord")


def _finished(path: str) -> Shard | None:
    """Returns the shard that a killed job left here, if every byte of it is as noted."""
    if not (files.exists(path) and files.exists(f"{path}.json")):
        return None
    try:
        shard = Shard(**json.loads(files.read(f"{path}.json")))
    except (ValueError, TypeError):
        return None
    sha256 = hashlib.sha256()
    with open_read(path) as file:
        while block := file.read(2**20):
            sha256.update(block)
    return shard if sha256.hexdigest() == shard.sha256 else None


def _examples(plan: ShardPlan, config: PreprocessConfig) -> Iterator[list[Example]]:
    """Yields the examples of each window, all in key order."""
    augmenter = cached_augmenter(config.spec, plan.variants, config.engine)
    rate = config.spec.sample_rate
    for track in plan.tracks:
        for window in open_windows(track.path, track.starts, rate=rate):
            start = window.start
            keys = [example_key(track.hash, start, variant) for variant in plan.variants]
            _require_unchanged(track)
            try:
                made = augmenter.log_mels(window, keys)
            except AudioError as error:
                raise _changed(track) from error
            yield [
                Example(
                    mel=quantise(features.mel),
                    ref_db=features.ref_db,
                    label=track.label,
                    track=track.hash,
                    start_s=start / rate,
                    variant=variant,
                    key=key,
                )
                for variant, key, features in zip(plan.variants, keys, made, strict=True)
            ]


def _require_unchanged(track: ShardTrack) -> None:
    try:
        same = file_stamp(track.path) == track.stamp
    except AudioError as error:
        raise _changed(track) from error
    if not same:
        raise _changed(track)


def _changed(track: ShardTrack) -> TfpipeError:
    return TfpipeError(f"{track.path}: changed while the job was reading it; run the same command again")


class _HashingWriter:
    """Passes bytes on to a file, counting and hashing them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)
