"""The steps of `beam_jobs.planning`, as functions of one range of content hashes, some labels or one shard.

Keys are numbers of ranges, places of labels, or a split with the number of a
shard. Rows of several kinds that are grouped by the same key carry their kind.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from apache_beam.pvalue import TaggedOutput

from beam_jobs import parts
from beam_jobs.grouping import Member, Unit, sum_group
from beam_jobs.packing import pack, unpack
from beam_jobs.payload import Block, Job
from beam_jobs.plan import ShardPlan, TrackWindows, cut_pieces, shard_count, shard_plan, track_row, track_windows
from beam_jobs.scan import Scan
from beam_jobs.sifting import DUPLICATE, Numbered, range_of, sift
from beam_jobs.splits import UnitSummary, find_moves, split_of, unit_of
from beam_jobs.steps import meter
from beam_jobs.tally import Tally
from tfpipe.data.manifest import SPLITS, Skipped

ROW, SPLIT, MOVE = "row", "split", "move"
# Labels are dealt to no more than this many places, where their units are counted.
_LABEL_PLACES = 64
# All labels that share a group with another label go to this place, because their moves depend on each other.
_SHARED = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What every step may know of the whole corpus.

    Attributes:
        labels: all labels, sorted.
        units: number of tracks without a group, and of groups.
    """

    labels: tuple[str, ...]
    units: int

    @functools.cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each label."""
        return {label: number for number, label in enumerate(self.labels)}


def by_range(row: Numbered, ranges: int) -> tuple[int, Numbered]:
    """Gives a scan the range of its content hash as key."""
    number, scan = row
    # A file that could not be read has no hash, and any range will do.
    return (range_of(scan.hash, ranges) if scan.hash else number % ranges), row


def read_splits(block: Block, job: Job) -> list[tuple[int, tuple[str, bytes]]]:
    """Reads a block of the splits to keep, by the range of the content hash."""
    by_range = defaultdict(list)
    for content, split in parts.read_splits(job, block):
        by_range[range_of(content, job.ranges)].append((content, split))
    return [(key, (SPLIT, pack(rows))) for key, rows in by_range.items()]


def weight(row: Numbered) -> int:
    """Returns how many small rows a scan is as large as: a long recording has many windows."""
    return 1 + len(row[1].starts) // 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the splits are.

    Attributes:
        windows: number of windows of each split.
        before: number of windows of a split in all ranges before a range, by split and range.
        shards: number of shards of each split.
    """

    windows: Mapping[str, int]
    before: Mapping[tuple[str, int], int]
    shards: Mapping[str, int]


def sift_range(element: tuple[int, Iterable[tuple[str, bytes]]], job: Job) -> list[Any]:
    """Sifts a range, and writes the kept splits of its files."""
    key, packed = element
    rows: dict[str, list[Any]] = {ROW: [], SPLIT: []}
    for kind, content in packed:
        rows[kind] += unpack(content)
    sifted = sift(rows[ROW], kept=dict(rows[SPLIT]))
    parts.write_rows(job, f"kept-{key:04d}.jsonl", (parts.split_row(*row) for row in sifted.input_splits))
    summaries: defaultdict[int, UnitSummary] = defaultdict(UnitSummary)
    found: list[Any] = []
    tracks: list[tuple[Scan, str]] = []
    for scan in sifted.tracks:
        kept, unit = sifted.kept.get(scan.hash, ""), unit_of(scan.hash, scan.file.group)
        if scan.file.group:
            member = Member(unit=unit, label=scan.file.label, track=scan.hash, kept=kept, place=key)
            found.append(TaggedOutput("members", (range_of(unit, job.ranges), member)))
            tracks.append((scan, ""))
            continue
        split = kept or split_of(scan.hash, job.config)
        summaries[_label_place(scan.file.label)].add(unit, labels=[scan.file.label], split=split, is_fixed=bool(kept))
        tracks.append((scan, split))
    found += [TaggedOutput("units", item) for item in summaries.items()]
    found += [
        TaggedOutput("skipped", (number * job.ranges // job.files, (number, row))) for number, row in sifted.skipped
    ]
    found.append(TaggedOutput("tally", sifted.tally))
    return [*found, (key, (ROW, pack(tracks)))]


def write_skipped(element: tuple[int, Iterable[bytes]], job: Job) -> None:
    """Writes the lines of skipped files that are neighbours in the order of the corpus."""
    rows: list[tuple[int, Skipped]] = [row for packed in element[1] for row in unpack(packed)]
    ordered = [row for _, row in sorted(rows, key=lambda row: row[0])]
    parts.write_rows(job, f"skipped-{element[0]:04d}.jsonl", parts.row_lines(ordered))


def find_facts(left_out: Tally, job: Job, *, tally: Tally, groups: int) -> Facts:
    """Checks that enough files can be used; counts and writes what is known of the whole corpus."""
    whole = Tally()
    whole.join(left_out)
    whole.join(tally)
    whole.require_enough(job.config)
    with meter(job) as counts:
        counts.count("silent", whole.silent)
        for code, count in [(DUPLICATE, whole.duplicates), *left_out.reasons.items()]:
            counts.skip(code, count)
    labels = tuple(sorted(whole.labels))
    parts.write_plan(job, labels)
    return Facts(labels=labels, units=whole.units + groups)


def sum_groups(element: tuple[int, Iterable[bytes]], job: Job) -> list[Any]:
    """Makes one unit of each group whose name is in a range."""
    members: defaultdict[str, list[Member]] = defaultdict(list)
    for packed in element[1]:
        for member in unpack(packed):
            members[member.unit].append(member)
    units = [sum_group(rows, job.config) for _, rows in sorted(members.items())]
    summaries: defaultdict[int, UnitSummary] = defaultdict(UnitSummary)
    for unit in units:
        place = _label_place(unit.labels[0]) if len(unit.labels) == 1 else _SHARED
        summaries[place].add(unit.name, labels=unit.labels, split=unit.split, is_fixed=unit.is_fixed)
    return [*(TaggedOutput("units", item) for item in summaries.items()), (element[0], (ROW, pack(units)))]


def part_shared(element: tuple[int, UnitSummary], job: Job, *, shared: set[str]) -> list[Any]:
    """Sends the labels that share a group with others to one place."""
    inside, outside = element[1].parted(shared)
    return [TaggedOutput("shared", (_SHARED, inside)), (element[0], outside)]


def move_units(element: tuple[int, UnitSummary], job: Job, *, facts: Facts) -> list[Any]:
    """Finds the units that go to another split than their hash says; a pair is a range of names and its units."""
    moves = find_moves(element[1], config=job.config, units=facts.units, labels=len(facts.labels))
    by_range = defaultdict(list)
    for unit, split in moves.items():
        by_range[range_of(unit, job.ranges)].append((unit, split))
    return [(key, (MOVE, pack(rows))) for key, rows in by_range.items()]


def settle_groups(element: tuple[int, Iterable[tuple[str, bytes]]], job: Job) -> list[Any]:
    """Returns the final split of each group, for every range that has a track of it."""
    moves, units = dict[str, str](), list[Unit]()
    for kind, packed in element[1]:
        if kind == MOVE:
            moves.update(unpack(packed))
        else:
            units += unpack(packed)
    by_range = defaultdict(list)
    for unit in units:
        for place in unit.places:
            by_range[place].append((unit.name, moves.get(unit.name, unit.split)))
    return [(key, (MOVE, pack(rows))) for key, rows in by_range.items()]


def settle(element: tuple[int, Iterable[tuple[str, bytes]]], job: Job, *, facts: Facts) -> list[Any]:
    """Gives each track of a range its split, writes its line, and counts the windows of each split."""
    moves, tracks = dict[str, str](), list[tuple[Scan, str]]()
    for kind, packed in element[1]:
        if kind == MOVE:
            moves.update(unpack(packed))
        else:
            tracks += unpack(packed)
    by_split: dict[str, list[Scan]] = {split: [] for split in SPLITS}
    for scan, split in tracks:
        by_split[moves.get(unit_of(scan.hash, scan.file.group), split)].append(scan)
    for split, scans in by_split.items():
        variants = len(job.config.variants(split))
        rows = [track_row(scan, split=split, variants=variants) for scan in scans]
        parts.write_rows(job, f"tracks-{split}-{element[0]:04d}.jsonl", parts.row_lines(rows))
    if not tracks:  # a move of a group whose tracks are elsewhere
        return []
    numbers = facts.numbers
    settled = {
        split: [track_windows(scan, numbers[scan.file.label]) for scan in scans] for split, scans in by_split.items()
    }
    windows = {(split, element[0]): sum(len(scan.starts) for scan in scans) for split, scans in by_split.items()}
    return [TaggedOutput("windows", windows), (element[0], pack(settled))]


def measure(windows: Mapping[tuple[str, int], int], job: Job) -> Sizes:
    """Finds where each range begins in its split, and tells the progress bar how many examples there will be."""
    whole, before = dict.fromkeys(SPLITS, 0), {}
    for split, place in sorted(windows):
        before[split, place] = whole[split]
        whole[split] += windows[split, place]
    with meter(job) as counts:
        counts.count("planned", sum(count * len(job.config.variants(split)) for split, count in whole.items()))
    shards = {split: shard_count(count, split=split, config=job.config) for split, count in whole.items()}
    return Sizes(windows=whole, before=before, shards=shards)


def cut(element: tuple[int, bytes], job: Job, *, sizes: Sizes) -> list[tuple[tuple[str, int], bytes]]:
    """Cuts the tracks of a range into pieces of the shards that the range overlaps."""
    by_split: dict[str, list[TrackWindows]] = unpack(element[1])
    found = []
    for split, tracks in by_split.items():
        first, windows, shards = sizes.before[split, element[0]], sizes.windows[split], sizes.shards[split]
        pieces = cut_pieces(tracks, first=first, windows=windows, shards=shards)
        found += [((split, shard), pack(piece)) for shard, piece in pieces]
    return found


def plan_shard(element: tuple[tuple[str, int], Iterable[bytes]], job: Job, *, sizes: Sizes) -> ShardPlan:
    """Puts the pieces of a shard together."""
    (split, index), pieces = element
    tracks: list[TrackWindows] = [track for piece in pieces for track in unpack(piece)]
    return shard_plan(split, index, tracks, shards=sizes.shards[split], variants=job.config.variants(split))


def _label_place(label: str) -> int:
    return hashlib.sha256(label.encode("utf-8", "surrogateescape")).digest()[0] % _LABEL_PLACES


def join_summaries(summaries: Iterable[UnitSummary]) -> UnitSummary:
    """Joins summaries of units."""
    whole = UnitSummary()
    for summary in summaries:
        whole.join(summary)
    return whole


def join_tallies(tallies: Iterable[Tally]) -> Tally:
    """Joins tallies."""
    whole = Tally()
    for tally in tallies:
        whole.join(tally)
    return whole


def join_windows(counts: Iterable[Mapping[tuple[str, int], int]]) -> Counter[tuple[str, int]]:
    """Joins counts of windows by split and range."""
    whole: Counter[tuple[str, int]] = Counter()
    for count in counts:
        whole.update(count)
    return whole


def union(sets: Iterable[set[str]]) -> set[str]:
    """Joins sets."""
    return set().union(*sets)
