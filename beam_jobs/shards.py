"""Writes one shard: decodes, makes variants and encodes, in key order, with one window in memory at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_jobs import files
from beam_jobs.config import PreprocessConfig
from beam_jobs.engines import VariantMaker, Window, cached_maker
from beam_jobs.metrics import Meter
from beam_jobs.payload import Source
from beam_jobs.plan import ShardPlan, TrackWindows, example_key
from beam_jobs.reuse import EarlierExamples
from beam_jobs.scan import file_stamp
from tfpipe.audio.reader import TrackReader
from tfpipe.data.manifest import Shard
from tfpipe.data.records import Example, encode_example, write_record
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.features.log_mel import LogMel, quantise
from tfpipe.files import remote
from tfpipe.files.storage import sha256_file

_Read = Callable[[int, int], NDArray[np.floating[Any]]]


def write_shard(
    plan: ShardPlan,
    *,
    config: PreprocessConfig,
    folder: str,
    sources: Iterable[Source] = (),
    meter: Meter | None = None,
) -> Shard:
    """Writes one shard and a JSON file that describes it, unless a killed job left both.

    The shard's file name is a digest of its content, so it cannot be confused with a shard of another plan.

    Args:
        plan: the windows and variants.
        config: the job's settings.
        folder: work folder, local or remote, for jobs of the same settings and tools.
        sources: files that may already hold some of the examples.
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
        return dataclasses.replace(done, name=plan.name)
    with files.create(path) as file:
        output = _HashingWriter(file)
        earlier = EarlierExamples(sources, config.spec.mel_shape)
        variants = _write_examples(output, _examples(plan, config, earlier, meter), meter)
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
    plan: ShardPlan, config: PreprocessConfig, earlier: EarlierExamples, meter: Meter
) -> Iterator[list[Example]]:
    """Yields the examples of each window, in key order; computes those that `earlier` lacks."""
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
                    maker = cached_maker(config.spec, tuple(keys[key] for key in missing), config.engine)
                    with meter.timed("features"):
                        for key, features in zip(missing, windows.log_mels(maker, start, missing), strict=True):
                            found[key] = Example(
                                mel=quantise(features.mel),
                                ref_db=features.ref_db,
                                label=track.label,
                                track=track.hash,
                                start_s=start / rate,
                                variant=keys[key].name,
                                key=key,
                            )
                yield [dataclasses.replace(found[key], label=track.label) for key in keys]
            windows.finish()


class _Windows:
    """Reads the windows of a track; opens the file at the first window that must be computed."""

    def __init__(self, track: TrackWindows, *, rate: int, meter: Meter) -> None:
        self._track, self._rate, self._meter = track, rate, meter
        self._reader: TrackReader | None = None

    def log_mels(self, maker: VariantMaker, start: int, keys: Sequence[str]) -> list[LogMel]:
        try:
            self._reader = self._reader or TrackReader(self._track.path)
            window = Window.of_file(self._reader, start, rate=self._rate)
            return maker.log_mels(dataclasses.replace(window, read=self._timed(window.read)), keys)
        except AudioError as error:
            raise _changed(self._track) from error

    def finish(self) -> None:
        """Checks that the file is still the one that was scanned.

        Raises:
            TfpipeError: it has changed.
        """
        if self._reader is not None:
            _require_unchanged(self._track)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _timed(
        self, read: Callable[[int, int], NDArray[np.floating[Any]]]
    ) -> Callable[[int, int], NDArray[np.floating[Any]]]:
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
