"""Writing one shard: decode, augment, encode, in key order, one window in memory at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from beam_jobs import files
from beam_jobs.config import PreprocessConfig
from beam_jobs.metrics import Meter
from beam_jobs.plan import ShardPlan, ShardTrack, example_key
from beam_jobs.reuse import Earlier, Source
from beam_jobs.scan import file_stamp
from beam_jobs.variants import Augmenter, Window, cached_augmenter
from tfpipe.audio.reader import TrackReader
from tfpipe.data.manifest import Shard
from tfpipe.data.records import Example, encode_example, write_record
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.features.log_mel import LogMel, quantise
from tfpipe.files.storage import sha256_file


def write_shard(
    plan: ShardPlan,
    *,
    config: PreprocessConfig,
    folder: str,
    sources: Iterable[Source] = (),
    meter: Meter | None = None,
) -> Shard:
    """Writes one shard and a note of what is in it, or finds both left by a job that was killed.

    The file is named by what it holds, so another plan can never take it for its own.

    Args:
        plan: the references.
        config: the job.
        folder: work folder, local or remote, for jobs of the same settings and tools.
        sources: where examples of these keys may stand already.
        meter: counts, and takes the time.

    Raises:
        TfpipeError: a source file changed since it was scanned, or the shard cannot be written.
    """
    path, meter = shard_path(folder, plan), meter or Meter()
    with meter.timed("copy"):
        done = _finished(path)
    if done is not None:
        meter.count("examples", done.examples)
        meter.count("copied", done.examples)
        return dataclasses.replace(done, name=plan.name)
    examples, variants = 0, Counter[str]()
    with files.create(path) as file:
        output = _HashingWriter(file)
        for batch in _examples(plan, config, Earlier(sources, config.spec.mel_shape), meter):
            with meter.timed("write"):
                for example in batch:
                    write_record(output, encode_example(example))
                    variants[example.variant] += 1
            examples += len(batch)
            meter.count("examples", len(batch))
    first, last = plan.keys
    shard = Shard(
        name=plan.name,
        split=plan.split,
        examples=examples,
        bytes=output.size,
        sha256=output.sha256.hexdigest(),
        variants=dict(sorted(variants.items())),
        first=first,
        last=last,
    )
    files.write(f"{path}.json", json.dumps(dataclasses.asdict(shard)).encode())
    return shard


def shard_path(folder: str, plan: ShardPlan) -> str:
    """Returns where a shard stands in the work folder until the dataset is put together."""
    return FileSystems.join(folder, f"{plan.digest}.tfrecord")


def _finished(path: str) -> Shard | None:
    """Returns the shard that a killed job left here, if every byte of it is as noted."""
    if not (files.exists(path) and files.exists(f"{path}.json")):
        return None
    try:
        shard = Shard(**json.loads(files.read(f"{path}.json")))
    except (ValueError, TypeError):
        return None
    return shard if sha256_file(path) == shard.sha256 else None


def _examples(plan: ShardPlan, config: PreprocessConfig, earlier: Earlier, meter: Meter) -> Iterator[list[Example]]:
    """Yields the examples of each window, all in key order; computes those that no earlier job did."""
    rate = config.spec.sample_rate
    for track in plan.tracks:
        with contextlib.closing(_Windows(track, rate=rate, meter=meter)) as windows:
            for start in track.starts:
                keys = {example_key(track.hash, start, variant): variant for variant in plan.variants}
                with meter.timed("copy"):
                    found = {key: example for key in keys if (example := earlier.take(key)) is not None}
                meter.count("copied", len(found))
                missing = [key for key in keys if key not in found]
                if missing:
                    augmenter = cached_augmenter(config.spec, tuple(keys[key] for key in missing), config.engine)
                    with meter.timed("features"):
                        for key, features in zip(missing, windows.log_mels(augmenter, start, missing), strict=True):
                            found[key] = Example(
                                mel=quantise(features.mel),
                                ref_db=features.ref_db,
                                label=track.label,
                                track=track.hash,
                                start_s=start / rate,
                                variant=keys[key],
                                key=key,
                            )
                yield [dataclasses.replace(found[key], label=track.label) for key in keys]
            windows.finish()


class _Windows:
    """Opens a track once something of it has to be computed, and notices when it changes meanwhile."""

    def __init__(self, track: ShardTrack, *, rate: int, meter: Meter) -> None:
        self._track, self._rate, self._meter = track, rate, meter
        self._reader: TrackReader | None = None

    def log_mels(self, augmenter: Augmenter, start: int, keys: Sequence[str]) -> list[LogMel]:
        try:
            self._reader = self._reader or TrackReader(self._track.path)
            window = Window.of_file(self._reader, start, rate=self._rate)
            return augmenter.log_mels(dataclasses.replace(window, read=self._timed(window.read)), keys)
        except AudioError as error:
            raise _changed(self._track) from error

    def finish(self) -> None:
        """Makes sure that all that was read was read of one and the same file.

        Raises:
            TfpipeError: it changed since it was scanned.
        """
        if self._reader is not None:
            _require_unchanged(self._track)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _timed(self, read: Callable[[int, int], NDArray[np.floating]]) -> Callable[[int, int], NDArray[np.floating]]:
        def timed(first: int, count: int) -> NDArray[np.floating]:
            with self._meter.timed("decode"):
                return read(first, count)

        return timed


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
