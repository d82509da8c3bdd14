"""Plans the dataset in Beam, so that no process holds all tracks.

    scans -> by range of content hashes -> sift ─┬─ tracks ──────────────┐
                                                 ├─ tally ─ facts        ├─> settle -> cut -> by shard -> plans
                                                 ├─ units of each label -> moves ┤
                                                 └─ members of groups -> units ──┘

The plan is the one that `beam_jobs.plan.make_plan` makes. What a step must know
of the whole corpus is small: the labels, the number of windows in each range,
and of each label the few units that may have to move to another split
(`beam_jobs.splits.UnitSummary`). Rows travel many together, packed, because
each element costs the runner time and memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton
from apache_beam.transforms.window import GlobalWindows

from beam_jobs import range_steps
from beam_jobs.grouping import Member
from beam_jobs.packing import pack, unpack
from beam_jobs.payload import Block, Job
from beam_jobs.plan import ShardPlan
from beam_jobs.sifting import Numbered
from beam_jobs.steps import guarded
from beam_jobs.tally import Tally

# Rows that a worker collects before it passes them on.
_MOST_ROWS = 20_000


class Pack(beam.DoFn):
    """Collects rows by key and emits them packed together: (key, row) -> (key, bytes).

    Args:
        weigh: returns for how many small rows a row counts, so that memory has a limit.
    """

    def __init__(self, weigh: Callable[[Any], int] = lambda row: 1) -> None:
        self._weigh = weigh

    def start_bundle(self) -> None:
        """Begins with no rows."""
        self._rows: defaultdict[Any, list[Any]] = defaultdict(list)
        self._count = 0

    def process(self, element: tuple[Any, Any]) -> Iterator[tuple[Any, bytes]]:
        """Adds a row."""
        self._rows[element[0]].append(element[1])
        self._count += self._weigh(element[1])
        if self._count >= _MOST_ROWS:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        """Emits the rest."""
        yield from map(GlobalWindows.windowed_value, self._flush())

    def _flush(self) -> list[tuple[Any, bytes]]:
        packed = [(key, pack(rows)) for key, rows in self._rows.items()]
        self.start_bundle()
        return packed


def plan_shards(
    scans: beam.PCollection[Numbered], job: Job, *, split_blocks: Sequence[Block], left_out: Tally
) -> beam.PCollection[ShardPlan]:
    """Adds the planning to a pipeline.

    The rows of the dataset's text files and the labels are written into the
    plan folder. The step `Facts` fails if too few files can be used.

    Args:
        scans: the scan of each file, with the file's place in the order of the corpus.
        job: the job, without its files.
        split_blocks: the splits to keep, which are in the plan folder.
        left_out: tally of the files that were left out before the scan.
    """
    pipeline = scans.pipeline
    rows = (
        scans
        | "ByRange" >> beam.Map(range_steps.by_range, ranges=job.ranges)
        | "PackScans" >> beam.ParDo(Pack(range_steps.weight))
        | "TagScans" >> beam.MapTuple(lambda key, packed: (key, (range_steps.ROW, packed)))
    )
    if split_blocks:
        kept = (
            pipeline
            | "KeptSplits" >> beam.Create(split_blocks)
            | "ShareSplits" >> beam.Reshuffle()
            | "ReadSplits" >> beam.FlatMap(guarded, function=range_steps.read_splits, job=job)
        )
        rows = (rows, kept) | "WithSplits" >> beam.Flatten()
    sifted = (
        rows
        | "Ranges" >> beam.GroupByKey()
        | "Sift"
        >> beam.FlatMap(guarded, function=range_steps.sift_range, job=job).with_outputs(
            "tally", "skipped", "units", "members", main="tracks"
        )
    )
    _ = (
        sifted.skipped
        | "PackSkipped" >> beam.ParDo(Pack())
        | "BySkipped" >> beam.GroupByKey()
        | "WriteSkipped" >> beam.Map(guarded, function=range_steps.write_skipped, job=job)
    )
    groups = _Groups(sifted.members, job) if job.has_groups else None
    tally = sifted.tally | "Tally" >> beam.CombineGlobally(range_steps.join_tallies)
    inputs = {"tally": AsSingleton(tally), "groups": groups.count if groups else 0}
    facts = AsSingleton(
        pipeline
        | "Once" >> beam.Create([left_out])
        | "Facts" >> beam.Map(guarded, function=range_steps.find_facts, job=job, **inputs)
    )
    moves = _moves(sifted.units, groups, facts, job)
    to_settle = [sifted.tracks, moves, *([groups.settle(moves)] if groups else [])]
    settled = (
        to_settle
        | "WithMoves" >> beam.Flatten()
        | "Settle" >> beam.GroupByKey()
        | "SettleSplits"
        >> beam.FlatMap(guarded, function=range_steps.settle, job=job, facts=facts).with_outputs(
            "windows", main="tracks"
        )
    )
    sizes = AsSingleton(
        settled.windows
        | "Windows" >> beam.CombineGlobally(range_steps.join_windows)
        | "Sizes" >> beam.Map(guarded, function=range_steps.measure, job=job)
    )
    return (
        settled.tracks
        | "Cut" >> beam.FlatMap(guarded, function=range_steps.cut, job=job, sizes=sizes)
        | "ByShard" >> beam.GroupByKey()
        | "PlanShards" >> beam.Map(guarded, function=range_steps.plan_shard, job=job, sizes=sizes)
    )


class _Groups:
    """The part of the pipeline for groups: each is one unit, whose tracks may lie in any range.

    Args:
        members: the tracks that have a group, by the range of the group's unit.
        job: the job.
    """

    def __init__(self, members: beam.PCollection[tuple[int, Member]], job: Job) -> None:
        self._job = job
        found = (
            members
            | "PackMembers" >> beam.ParDo(Pack())
            | "ByUnit" >> beam.GroupByKey()
            | "SumGroups"
            >> beam.FlatMap(guarded, function=range_steps.sum_groups, job=job).with_outputs("units", main="rows")
        )
        self._rows, self.units = found.rows, found.units
        counts = self._rows | "UnitsOfRange" >> beam.MapTuple(lambda _, row: len(unpack(row[1])))
        self.count = AsSingleton(counts | "CountGroups" >> beam.CombineGlobally(sum))
        self.shared = AsSingleton(
            self.units
            | "SharedLabels" >> beam.MapTuple(lambda _, summary: summary.shared_labels)
            | "AllShared" >> beam.CombineGlobally(range_steps.union)
        )

    def settle(self, moves: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """Returns the split of each group, for every range that has a track of it."""
        return (
            (self._rows, moves)
            | "GroupsWithMoves" >> beam.Flatten()
            | "MovesByUnit" >> beam.GroupByKey()
            | "SettleGroups" >> beam.FlatMap(guarded, function=range_steps.settle_groups, job=self._job)
        )


def _moves(units: Any, groups: _Groups | None, facts: AsSingleton, job: Job) -> beam.PCollection[Any]:
    """Finds the units that go to another split than their hash says; a pair is a range of names and its units."""
    if groups is None:
        by_label = units | "ByLabel" >> beam.CombinePerKey(range_steps.join_summaries)
        return by_label | "Moves" >> beam.FlatMap(guarded, function=range_steps.move_units, job=job, facts=facts)
    parted = (
        (units, groups.units)
        | "WithGroups" >> beam.Flatten()
        | "ByLabel" >> beam.CombinePerKey(range_steps.join_summaries)
        | "PartShared"
        >> beam.FlatMap(guarded, function=range_steps.part_shared, job=job, shared=groups.shared).with_outputs(
            "shared", main="alone"
        )
    )
    shared = parted.shared | "AllShares" >> beam.CombinePerKey(range_steps.join_summaries)
    return (
        (parted.alone, shared)
        | "AllLabels" >> beam.Flatten()
        | "Moves" >> beam.FlatMap(guarded, function=range_steps.move_units, job=job, facts=facts)
    )
