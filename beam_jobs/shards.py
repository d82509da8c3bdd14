"""Writes one shard in key order, with one window in memory at a time: copies what is made, and computes the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_jobs import files
from beam_jobs.config import PreprocessConfig
from beam_jobs.early import EarlyExamples, make_examples
from beam_jobs.engines import Window
from beam_jobs.metrics import Meter
from beam_jobs.payload import Source
from beam_jobs.plan import ShardPlan, TrackWindows, example_key
from beam_jobs.reuse import EarlierExamples
from beam_jobs.scan import file_stamp
from beam_jobs.variants import Variant
from tfpipe.audio.reader import TrackReader
from tfpipe.data.manifest import Shard
from tfpipe.data.records import Example, encode_example, write_record
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.files import remote
from tfpipe.files.storage import sha256_file

_Read = Callable[[int, int], NDArray[np.floating[Any]]]


def write_shard(
    plan: ShardPlan,
    *,
    config: PreprocessConfig,
    folder: str,
    sources: Iterable[Source] = (),
    early: EarlyExamples | None = None,
    meter: Meter | None = None,
) -> Shard:
    """Writes one shard and a JSON file that describes it, unless a killed job left both.

    The shard's file name is a digest of its content, so it cannot be confused with a shard of another plan.

    Args:
        plan: the windows and variants.
        config: the job's settings.
        folder: work folder, local or remote, for jobs of the same settings and tools.
        sources: files that may already hold some of the examples, made by an older job.
        early: where scans have kept examples. If the disk is full, they are removed and the shard is written again.
        meter: counts what is done and how long it takes.

    Raises:
        TfpipeError: an audio file changed after it was scanned, or the shard cannot be written.
    """
    path, meter = shard_path(folder, plan.digest), meter or Meter()
    with meter.timed("copy"):
        done = _finished(path)
    if done is not None:
        meter.count("examples", done.examples)
        meter.count("copied", done.examples)
        if early is not None:
            early.remove_used(plan)
        return dataclasses.replace(done, name=plan.name)

    def write() -> Shard:
        with files.create(path) as file:
            output, earlier = _HashingWriter(file), EarlierExamples(sources, config.spec.mel_shape)
            variants = _write_examples(output, _examples(plan, config, earlier, early, meter), meter)
        first, last = plan.keys
        shard = Shard(
            name=plan.name,
            split=plan.split,
            examples=variants.total(),
            bytes=output.size,
            sha256=output.sha256.hexdigest(),
            variants=dict(sorted(variants.items())),
            first=first,
            last=last,
        )
        files.write(f"{path}.json", json.dumps(dataclasses.asdict(shard)).encode())
        return shard

    try:
        shard = write()
    except TfpipeError as error:
        if early is None or not early.make_room(error):
            raise
        shard = write()
    if early is not None:
        early.remove_used(plan)
    return shard


def _write_examples(output: _HashingWriter, batches: Iterable[list[Example]], meter: Meter) -> Counter[str]:
    """Writes the examples of each window; returns how many there are of each variant."""
    variants = Counter[str]()
    for batch in batches:
        with meter.timed("write"):
            for example in batch:
                write_record(output, encode_example(example))
                variants[example.variant] += 1
        meter.count("examples", len(batch))
    return variants


def shard_path(folder: str, digest: str) -> str:
    """Returns the path of a shard in the work folder, where it stays until the dataset is put together.

    Args:
        folder: the work folder.
        digest: of the shard's plan, hex.

    Raises:
        TfpipeError: the digest is not hex; such a text could name a file elsewhere.
    """
    if not re.fullmatch("[0-9a-f]+", digest):
        raise TfpipeError(f"{folder}: a shard cannot have the digest {digest!r}; delete this folder and run again")
    return remote.join(folder, f"{digest}.tfrecord")


def _finished(path: str) -> Shard | None:
    """Returns the shard that a killed job left here, if its checksum is right."""
    if not (remote.exists(path) and remote.exists(f"{path}.json")):
        return None
    try:
        shard = Shard(**json.loads(files.read(f"{path}.json")))
    except (ValueError, TypeError):
        return None
    return shard if sha256_file(path) == shard.sha256 else None


def _examples(
    plan: ShardPlan,
    config: PreprocessConfig,
    earlier: EarlierExamples,
    early: EarlyExamples | None,
    meter: Meter,
) -> Iterator[list[Example]]:
    """Yields the examples of each window, in key order; computes those that neither `earlier` nor `early` has."""
    for track in plan.tracks:
        with contextlib.closing(_Windows(track, config=config, early=early, meter=meter)) as windows:
            for start in track.starts:
                keys = {example_key(track.hash, start, variant): variant for variant in plan.variants}
                with meter.timed("copy"):
                    found = {key: example for key in keys if (example := earlier.take(key)) is not None}
                meter.count("copied", len(found))
                if len(found) < len(keys):
                    found |= windows.examples(start, {key: keys[key] for key in keys if key not in found})
                yield [dataclasses.replace(found[key], label=track.label) for key in keys]
            windows.finish()


class _Windows:
    """The windows of a track: takes what the scan has made; opens the recording at the first window that lacks it."""

    def __init__(
        self, track: TrackWindows, *, config: PreprocessConfig, early: EarlyExamples | None, meter: Meter
    ) -> None:
        self._track, self._config, self._early, self._meter = track, config, early, meter
        self._made, self._made_in = EarlierExamples((), config.spec.mel_shape), ""
        self._reader: TrackReader | None = None
        self._used = False

    def examples(self, start: int, keys: Mapping[str, Variant]) -> dict[str, Example]:
        """Returns the examples of a window by their keys."""
        self._used = True
        with self._meter.timed("copy"):
            made = self._made_early(start)
            found = {key: example for key in keys if (example := made.take(key)) is not None}
        missing = {key: keys[key] for key in keys if key not in found}
        if not missing:
            return found
        with self._meter.timed("features"):
            try:
                self._reader = self._reader or TrackReader(self._track.path)
                window = Window.of_file(self._reader, start, rate=self._config.spec.sample_rate)
                window = dataclasses.replace(window, read=self._timed(window.read))
                return found | make_examples(window, missing, self._config, track=self._track.hash)
            except AudioError as error:
                raise _changed(self._track) from error

    def _made_early(self, start: int) -> EarlierExamples:
        if self._early is not None and (path := self._early.path(self._track.hash, start)) != self._made_in:
            self._made_in = path
            self._made = EarlierExamples([Source(path=path, first="", last="")], self._config.spec.mel_shape)
        return self._made

    def finish(self) -> None:
        """Checks that the file is still the one that was scanned.

        Raises:
            TfpipeError: it has changed.
        """
        if self._used:
            _require_unchanged(self._track)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _timed(self, read: _Read) -> _Read:
        def timed(first: int, count: int) -> NDArray[np.floating[Any]]:
            with self._meter.timed("decode"):
                return read(first, count)

        return timed


def _require_unchanged(track: TrackWindows) -> None:
    try:
        same = file_stamp(track.path) == track.stamp
    except AudioError as error:
        raise _changed(track) from error
    if not same:
        raise _changed(track)


def _changed(track: TrackWindows) -> TfpipeError:
    return TfpipeError(f"{track.path}: changed while the job was reading it; run the same command again")


class _HashingWriter:
    """Writes bytes to a file, and counts and hashes them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)
