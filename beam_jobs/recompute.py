"""Checks examples of a dataset by computing them again from the recordings."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from beam_jobs.engines import VariantMaker, Window
from beam_jobs.scan import hash_file
from beam_jobs.variants import Variant
from beam_jobs.versions import versions
from tfpipe.audio.reader import TrackReader
from tfpipe.data.manifest import Folder, Manifest, Track, load_manifest, load_tracks
from tfpipe.data.records import Example, decode_example, read_records
from tfpipe.errors import AudioError, DatasetError, TfpipeError
from tfpipe.features.log_mel import LogMel, quantise
from tfpipe.files.remote import join


@dataclass(frozen=True, kw_only=True)
class DeepCheck:
    """Result of `verify_deep`.

    Attributes:
        checked: number of examples that were computed again.
        problems: one sentence for each example that differs.
        unavailable: one sentence for each recording that is missing or has changed, so its examples could not be
            checked; this is not an error of the dataset.
    """

    checked: int
    problems: list[str]
    unavailable: list[str]


def verify_deep(folder: Folder, *, count: int = 20, on_example: Callable[[], None] = lambda: None) -> DeepCheck:
    """Computes a sample of the examples again from the recordings, and compares every 8-bit code.

    The sample is spread evenly over all shards and is the same for the same dataset.

    Args:
        folder: a dataset folder whose shards are complete (`tfpipe.data.verify.verify`).
        count: number of examples.
        on_example: called for each example, to show progress.

    Raises:
        DatasetError: no dataset in the folder, one that does not name its recordings, or a damaged shard.
    """
    manifest = load_manifest(folder)
    if not {"base", "engine"} <= set(manifest.config):
        raise DatasetError(
            f"{folder}: does not say which recordings it was made from; use a dataset of `tfpipe preprocess`"
        )
    tracks = {track.hash: track for track in load_tracks(folder)}
    checked, problems, unavailable = 0, [], Counter[str]()
    state: dict[str, str] = {}
    for shard, example in _sample(folder, manifest, count):
        on_example()
        track = tracks.get(example.track)
        if track is None:
            problems.append(f"{shard}: example {example.key} is of a track that tracks.jsonl lacks")
            continue
        path = join(manifest.config["base"], track.path)
        if path not in state:
            state[path] = _why_unavailable(path, track)
        if state[path]:
            unavailable[state[path]] += 1
            continue
        checked += 1
        if difference := _difference(example, path, manifest):
            problems.append(f"{shard}: example {example.key} is not what {path} gives ({difference})")
    return DeepCheck(
        checked=checked,
        problems=problems,
        unavailable=[f"{why}; {number} examples were not checked" for why, number in unavailable.items()],
    )


def _sample(folder: Folder, manifest: Manifest, count: int) -> Iterator[tuple[str, Example]]:
    """Yields (shard, example), one from each of `count` equal parts of the dataset."""
    total = sum(shard.examples for shard in manifest.shards)
    parts = min(count, total)
    edges = [part * total // parts for part in range(parts + 1)]
    wanted = {low + _below(high - low, f"{manifest.fingerprint}/{low}") for low, high in itertools.pairwise(edges)}
    first = 0
    for shard in manifest.shards:
        path = join(folder, shard.name)
        here = wanted.intersection(range(first, first + shard.examples))
        for index, data in enumerate(read_records(path) if here else [], start=first):
            if index in here:
                yield path, decode_example(data, manifest.spec.mel_shape)
        first += shard.examples


def _below(limit: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % limit


def _why_unavailable(path: str, track: Track) -> str:
    """Returns why the examples of a recording cannot be checked, or an empty text."""
    try:
        same = hash_file(path) == track.hash
    except AudioError as error:
        return str(error)
    return "" if same else f"{path}: has changed since the dataset was made"


def _difference(example: Example, path: str, manifest: Manifest) -> str:
    """Returns how an example differs from the one computed again, or an empty text."""
    try:
        made = _compute(example, path, manifest)
    except TfpipeError as error:
        return str(error)
    steps = np.abs(quantise(made.mel).astype(int) - example.mel)
    if not steps.any() and np.float32(made.ref_db) == np.float32(example.ref_db):
        return ""
    tools = [name for name, version in versions().items() if manifest.versions.get(name, version) != version]
    hint = f"; it was made with other versions of {', '.join(tools)}" if tools else ""
    return (
        f"{np.count_nonzero(steps)} of {steps.size} codes differ, by up to {steps.max()} of 255, "
        f"level {example.ref_db:.3f} dB instead of {made.ref_db:.3f}{hint}"
    )


def _compute(example: Example, path: str, manifest: Manifest) -> LogMel:
    start = int(example.key.split("/")[1])
    maker = VariantMaker(manifest.spec, [Variant.parse(example.variant)], manifest.config["engine"])
    with TrackReader(path) as reader:
        window = Window.of_file(reader, start, rate=manifest.spec.sample_rate)
        (features,) = maker.log_mels(window, [example.key])
    return features
