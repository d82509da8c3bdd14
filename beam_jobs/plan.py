"""Cuts the windows of each split into shards, as pure functions.

`beam_jobs.planning` calls them in the job's pipeline, each for one range of content hashes or one shard. `make_plan`
plans a corpus that fits in memory, for benchmarks and tests: the result must be the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from beam_jobs.config import PreprocessConfig
from beam_jobs.scan import Scan
from beam_jobs.sifting import sift
from beam_jobs.splits import assign_splits
from beam_jobs.tally import tally_of
from beam_jobs.variants import Variant
from tfpipe.data.manifest import SPLITS, Skipped, Track
from tfpipe.errors import TfpipeError
from tfpipe.files.storage import digest

_HASH_DIGITS = 16
# Bytes of an example besides the mel.
_EXAMPLE_OVERHEAD = 320
# A small split is cut into up to this many shards, so that several workers and readers can share it.
_WANTED_SHARDS = 8
# The names of shards have five digits.
_MOST_SHARDS = 99_999
# Each of these shards holds at least this many windows.
_WINDOWS_PER_SHARD = 64


@dataclass(frozen=True, kw_only=True)
class TrackWindows:
    """The windows of one track that a shard holds.

    Attributes:
        path: where to open the track, a local path or a URL.
        hash: SHA-256 of the file, hex.
        stamp: size in bytes and modification time in ns when the file was scanned.
        label: index of the label.
        starts: first sample of each window, at the spec's rate.
    """

    path: str
    hash: str
    stamp: tuple[int, int]
    label: int
    starts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What one shard will hold, as references in key order.

    Attributes:
        name: file name in the dataset.
        split: `train`, `validation` or `test`.
        variants: the variants of each window, sorted by name.
        tracks: tracks in hash order, windows in time order.
    """

    name: str
    split: str
    variants: tuple[Variant, ...]
    tracks: tuple[TrackWindows, ...]

    @property
    def examples(self) -> int:
        """Number of examples the shard will hold."""
        return sum(len(track.starts) for track in self.tracks) * len(self.variants)

    @property
    def keys(self) -> tuple[str, str]:
        """First and last key."""
        first, last = self.tracks[0], self.tracks[-1]
        return (
            example_key(first.hash, first.starts[0], self.variants[0]),
            example_key(last.hash, last.starts[-1], self.variants[-1]),
        )

    @property
    def digest(self) -> str:
        """16 hex digits over the content: the shard's number and the paths of the files do not count."""
        tracks = [(track.hash, track.label, track.starts) for track in self.tracks]
        return digest({"variants": [variant.name for variant in self.variants], "tracks": tracks})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole dataset, before anything is computed.

    Attributes:
        labels: label names; an example's label is an index into them.
        tracks: the tracks that are used.
        skipped: the files that are not used, duplicates included.
        shards: every shard, in name order.
    """

    labels: tuple[str, ...]
    tracks: tuple[Track, ...]
    skipped: tuple[Skipped, ...]
    shards: tuple[ShardPlan, ...]

    @property
    def examples(self) -> int:
        """Number of examples in all shards."""
        return sum(shard.examples for shard in self.shards)


def make_plan(
    scans: Iterable[Scan],
    *,
    config: PreprocessConfig,
    skipped: Collection[Skipped] = (),
    splits: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Plans the dataset; the result does not depend on the order of the scans.

    Args:
        scans: one for each file.
        config: the job's settings.
        skipped: files that were skipped before any file was opened.
        splits: splits to keep, by content hash.

    Raises:
        TfpipeError: no file is usable, or more than `max_skipped` of the files cannot be used.
    """
    sifted = sift(list(enumerate(sorted(scans, key=lambda scan: scan.file))), kept=splits)
    tally = tally_of(skipped)
    tally.join(sifted.tally)
    tally.require_enough(config)
    assigned = assign_splits(
        {scan.hash: scan.file.label for scan in sifted.tracks},
        config=config,
        groups={scan.hash: scan.file.group for scan in sifted.tracks if scan.file.group},
        kept=sifted.kept,
    )
    labels = tuple(sorted(tally.labels))
    numbers = {label: number for number, label in enumerate(labels)}
    variants = {split: len(config.variants(split)) for split in SPLITS}
    by_split: dict[str, list[TrackWindows]] = {split: [] for split in SPLITS}
    for scan in sifted.tracks:
        by_split[assigned[scan.hash]].append(track_windows(scan, numbers[scan.file.label]))
    return Plan(
        labels=labels,
        tracks=tuple(
            track_row(scan, split=assigned[scan.hash], variants=variants[assigned[scan.hash]]) for scan in sifted.tracks
        ),
        skipped=tuple(sorted([*skipped, *(row for _, row in sifted.skipped)], key=lambda row: row.path)),
        shards=tuple(shard for split in SPLITS for shard in cut_shards(by_split[split], split=split, config=config)),
    )


def cut_shards(tracks: Iterable[TrackWindows], *, split: str, config: PreprocessConfig) -> list[ShardPlan]:
    """Cuts a split's windows, in key order, into contiguous shards of nearly equal size.

    The number of shards depends on the data alone, never on the workers.
    """
    ordered = sorted(tracks, key=lambda track: track.hash)
    windows = sum(len(track.starts) for track in ordered)
    count = shard_count(windows, split=split, config=config)
    pieces = cut_pieces(ordered, first=0, windows=windows, shards=count)
    variants = config.variants(split)
    return [shard_plan(split, index, piece, shards=count, variants=variants) for index, piece in pieces]


def shard_count(windows: int, *, split: str, config: PreprocessConfig) -> int:
    """Returns into how many shards a split is cut.

    Args:
        windows: number of windows in the split.
        split: `train`, `validation` or `test`.
        config: gives the size of an example and of a shard.

    Raises:
        TfpipeError: there would be more shards than names.
    """
    mels, frames = config.spec.mel_shape
    size = windows * len(config.variants(split)) * (mels * frames + _EXAMPLE_OVERHEAD)
    enough = min(_WANTED_SHARDS, windows // _WINDOWS_PER_SHARD)
    count = min(windows, max(1, enough, math.ceil(size / config.shard_bytes)))
    if count > _MOST_SHARDS:
        needed = math.ceil(size / _MOST_SHARDS / 2**20)
        raise TfpipeError(
            f"the split {split!r} would have {count} shards, and a split has at most {_MOST_SHARDS}; "
            f"use --shard-mib {needed} or more"
        )
    return count


def cut_pieces(
    tracks: Iterable[TrackWindows], *, first: int, windows: int, shards: int
) -> Iterator[tuple[int, list[TrackWindows]]]:
    """Yields the number of each shard that has windows of these tracks, and those windows.

    Args:
        tracks: consecutive tracks of a split, in the order of their hashes.
        first: number of windows of the split before these tracks.
        windows: number of windows of the whole split.
        shards: number of shards of the split.
    """
    current, piece, number = -1, list[TrackWindows](), first
    for track in tracks:
        begin = 0
        while begin < len(track.starts):
            shard = ((number + 1) * shards - 1) // windows
            if shard != current:
                if piece:
                    yield current, piece
                current, piece = shard, []
            end = min(len(track.starts), begin + (shard + 1) * windows // shards - number)
            is_whole = end - begin == len(track.starts)
            piece.append(track if is_whole else dataclasses.replace(track, starts=track.starts[begin:end]))
            number, begin = number + end - begin, end
    if piece:
        yield current, piece


def shard_plan(
    split: str, index: int, tracks: Iterable[TrackWindows], *, shards: int, variants: tuple[Variant, ...]
) -> ShardPlan:
    """Returns the plan of one shard.

    Args:
        split: `train`, `validation` or `test`.
        index: number of the shard in its split.
        tracks: its windows, in any order of the tracks.
        shards: number of shards of the split.
        variants: the variants of the split.
    """
    return ShardPlan(
        name=f"{split}-{index:05d}-of-{shards:05d}.tfrecord",
        split=split,
        variants=variants,
        tracks=tuple(sorted(tracks, key=lambda track: track.hash)),
    )


def example_key(track: str, start: int, variant: Variant) -> str:
    """Returns the unique and stable key of an example; sorting keys as text sorts by track, time and variant.

    Args:
        track: content hash of the track.
        start: first sample of the window, at the spec's rate.
        variant: what is done to the window.
    """
    return f"{track[:_HASH_DIGITS]}/{start:012d}/{variant.name}"


def track_row(scan: Scan, *, split: str, variants: int) -> Track:
    """Returns the line of a track in `tracks.jsonl`; `variants` is the number of variants of each window."""
    return Track(
        path=scan.file.name,
        hash=scan.hash,
        label=scan.file.label,
        split=split,
        seconds=scan.seconds,
        windows=len(scan.starts),
        silent=scan.silent,
        variants=variants,
        unused_s=scan.unused_s,
        group=scan.file.group,
    )


def track_windows(scan: Scan, label: int) -> TrackWindows:
    """Returns all windows of a track; `label` is the number of its label."""
    return TrackWindows(
        path=scan.file.path,
        hash=scan.hash,
        stamp=scan.stamp,
        label=label,
        starts=scan.starts,
    )
