"""Decides the duplicates, the tracks of the dataset and its shards, as pure functions of the scans."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile, Corpus
from beam_jobs.scan import Scan
from beam_jobs.splits import assign_splits
from beam_jobs.variants import Variant
from tfpipe.data.manifest import SPLITS, Skipped, Track
from tfpipe.errors import TfpipeError
from tfpipe.files.storage import digest

DUPLICATE = "duplicate"
_HASH_DIGITS = 16
# Bytes of an example besides the mel.
_EXAMPLE_OVERHEAD = 320
# A small split is cut into up to this many shards, so that several workers and readers can share it.
_WANTED_SHARDS = 8
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
    ordered = sorted(scans, key=lambda scan: scan.file)
    kept, duplicates = _without_duplicates([scan for scan in ordered if scan.skipped is None])
    bad = [*skipped, *(scan.skipped for scan in ordered if scan.skipped is not None)]
    _require_enough(kept, bad, found=len(ordered) + len(skipped), config=config)
    groups = {scan.hash: scan.file.group for scan in kept if scan.file.group}
    labelled = {scan.hash: scan.file.label for scan in kept}
    chosen = {scan.hash: scan.file.split for scan in kept if scan.file.split}
    splits = assign_splits(labelled, config=config, groups=groups, kept={**splits, **chosen})
    labels = tuple(sorted({scan.file.label for scan in kept}))
    numbers = {label: number for number, label in enumerate(labels)}
    return Plan(
        labels=labels,
        tracks=tuple(_track(scan, split=splits[scan.hash], config=config) for scan in kept),
        skipped=tuple(sorted([*bad, *duplicates], key=lambda row: row.path)),
        shards=tuple(
            shard
            for split in SPLITS
            for shard in cut_shards(
                [_track_windows(scan, numbers[scan.file.label]) for scan in kept if splits[scan.hash] == split],
                split=split,
                config=config,
            )
        ),
    )


def cut_shards(tracks: Sequence[TrackWindows], *, split: str, config: PreprocessConfig) -> list[ShardPlan]:
    """Cuts a split's windows, in key order, into contiguous shards of nearly equal size.

    The number of shards depends on the data alone, never on the workers.
    """
    variants = config.variants(split)
    windows = [(track, start) for track in sorted(tracks, key=lambda track: track.hash) for start in track.starts]
    mels, frames = config.spec.mel_shape
    size = len(windows) * len(variants) * (mels * frames + _EXAMPLE_OVERHEAD)
    enough = min(_WANTED_SHARDS, len(windows) // _WINDOWS_PER_SHARD)
    count = min(len(windows), max(1, enough, math.ceil(size / config.shard_bytes)))
    edges = [index * len(windows) // count for index in range(count + 1)] if count else []
    return [
        ShardPlan(
            name=f"{split}-{index:05d}-of-{count:05d}.tfrecord",
            split=split,
            variants=variants,
            tracks=_by_track(windows[edges[index] : edges[index + 1]]),
        )
        for index in range(count)
    ]


def example_key(track: str, start: int, variant: Variant) -> str:
    """Returns the unique and stable key of an example; sorting keys as text sorts by track, time and variant.

    Args:
        track: content hash of the track.
        start: first sample of the window, at the spec's rate.
        variant: what is done to the window.
    """
    return f"{track[:_HASH_DIGITS]}/{start:012d}/{variant.name}"


def input_digest(files: Iterable[tuple[AudioFile, str]], corpus: Corpus) -> str:
    """Returns 16 hex digits over the job's input: the files with their content hashes, skipped files, kept splits."""
    files = list(files)
    rows = sorted((file.name, file.label, file.group, content) for file, content in files)
    chosen = {**corpus.splits, **{content: file.split for file, content in files if file.split}}
    kept = sorted((row[-1], chosen[row[-1]]) for row in rows if row[-1] in chosen)
    return digest({"files": rows, "skipped": sorted((row.path, row.code) for row in corpus.skipped), "splits": kept})


def _without_duplicates(scans: Sequence[Scan]) -> tuple[list[Scan], list[Skipped]]:
    """Keeps the first file of each content; returns the kept scans and the duplicates."""
    first: dict[str, Scan] = {}
    duplicates = []
    for scan in scans:
        original = first.setdefault(scan.hash, scan)
        if original is not scan:
            message = f"{scan.file.path}: same content as {original.file.path}, which is kept"
            if scan.file.label != original.file.label:
                message += f" with label {original.file.label!r} instead of {scan.file.label!r}"
            if scan.file.group != original.file.group:
                message += f" in group {original.file.group!r} instead of {scan.file.group!r}"
            duplicates.append(Skipped(path=scan.file.name, code=DUPLICATE, message=message))
    return list(first.values()), duplicates


def _require_enough(kept: Sequence[Scan], bad: Sequence[Skipped], *, found: int, config: PreprocessConfig) -> None:
    """Raises a TfpipeError if no file, or too few files, can be used; duplicates do not count as unusable."""
    if kept and len(bad) <= config.max_skipped * found:
        return
    reasons = Counter(row.code for row in bad)
    if set(reasons) == {"too_short"} and not kept:
        needed = config.min_fill * config.spec.window_s
        raise TfpipeError(
            f"all {found} files are shorter than {needed:g} s, which one window needs; "
            "give longer recordings, or lower --window-s or --min-fill"
        )
    if set(reasons) == {"silent"} and not kept:
        raise TfpipeError(
            f"all {found} files are silent: every window is under {config.spec.silence_dbfs:g} dBFS, as in "
            f"{bad[0].path}; check the recordings, or lower --silence-dbfs if they are only quiet"
        )
    summary = ", ".join(f"{count} {code}" for code, count in sorted(reasons.items()))
    limit = "" if not kept else f" (more than the allowed {config.max_skipped:.0%}; raise --max-skipped to continue)"
    raise TfpipeError(
        f"{len(bad)} of {found} audio files cannot be used{limit}: {summary}; the first is {bad[0].message}"
    )


def _track(scan: Scan, *, split: str, config: PreprocessConfig) -> Track:
    return Track(
        path=scan.file.name,
        hash=scan.hash,
        label=scan.file.label,
        split=split,
        seconds=scan.seconds,
        windows=len(scan.starts),
        silent=scan.silent,
        variants=len(config.variants(split)),
        unused_s=scan.unused_s,
        group=scan.file.group,
    )


def _track_windows(scan: Scan, label: int) -> TrackWindows:
    return TrackWindows(
        path=scan.file.path,
        hash=scan.hash,
        stamp=scan.stamp,
        label=label,
        starts=scan.starts,
    )


def _by_track(windows: Sequence[tuple[TrackWindows, int]]) -> tuple[TrackWindows, ...]:
    """Collects (track, start) pairs into one `TrackWindows` for each track."""
    starts: dict[str, list[int]] = {}
    tracks = {}
    for track, start in windows:
        tracks[track.hash] = track
        starts.setdefault(track.hash, []).append(start)
    return tuple(dataclasses.replace(track, starts=tuple(starts[key])) for key, track in tracks.items())
