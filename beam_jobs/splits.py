"""Decides the split of each track, as a pure function of content hashes, labels and groups."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from types import MappingProxyType

from beam_jobs.config import PreprocessConfig
from tfpipe.data.manifest import SPLITS
from tfpipe.files.storage import digest

# Hex digits of a content hash that decide the split of its track.
_HASH_DIGITS = 16
# In a corpus with fewer tracks than this, most tracks of a label must train.
_SMALL_CORPUS = 20
# A held-out split of a label is filled up to half of its share, but to no more than this many tracks.
_ENOUGH_HELD_OUT = 5
# The rules move fewer units of one label than this: 1 to training and 5 to each held-out split, or fewer than all units
# of a small corpus.
_MOST_MOVES = 20


def split_of(track: str, config: PreprocessConfig) -> str:
    """Returns the split of a track, which follows from its content hash and the shares."""
    place = int(track[:_HASH_DIGITS], 16) / 16**_HASH_DIGITS
    if place < 1.0 - config.validation_share - config.test_share:
        return "train"
    return "validation" if place < 1.0 - config.test_share else "test"


def assign_splits(
    labels: Mapping[str, str],
    *,
    config: PreprocessConfig,
    groups: Mapping[str, str] = MappingProxyType({}),
    kept: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Assigns every track to a split by its hash, then fills the splits that a label lacks.

    The tracks of a group go to one split, by the hash of the group's name. A
    group then counts as one track in the following rules.

    - The training split gets a track of every label.
    - A label with at least three tracks gets a track in every split whose share is
      not 0, and of many tracks half of the share, but no more than five tracks. This is not guaranteed for a group
      with several labels.
    - In a corpus of fewer than 20 tracks, more than half of the tracks of a label train, if the training share is
      more than half. So a label with three or four tracks has one in validation and none in test. If all tracks are
      of one label, two of them both train.
    - To fill a split, the track with the smallest hash moves there. It leaves a split only if that split keeps
      enough tracks of each of its labels; the training split is filled in any case.

    So adding tracks moves other tracks only if a label is small enough to need filling.

    Args:
        labels: label by content hash.
        config: gives the shares.
        groups: group by content hash, for the tracks that have one.
        kept: splits that do not change, by content hash; they hold for the track's whole group.

    Returns:
        The split of each track, by content hash.
    """
    units = {track: unit_of(track, groups.get(track, "")) for track in labels}
    fixed = {units[track]: kept[track] for track in sorted(units, reverse=True) if track in kept}
    unit_labels: dict[str, tuple[str, ...]] = {}
    for track, unit in units.items():
        if labels[track] not in (before := unit_labels.get(unit, ())):
            unit_labels[unit] = (*before, labels[track])
    summary = UnitSummary()
    splits = {}
    for unit, names in unit_labels.items():
        splits[unit] = fixed.get(unit) or split_of(unit, config)
        summary.add(unit, labels=names, split=splits[unit], is_fixed=unit in fixed)
    splits.update(find_moves(summary, config=config, units=len(splits), labels=len(summary.labels)))
    return {track: splits[unit] for track, unit in units.items()}


def unit_of(track: str, group: str) -> str:
    """Returns the name of the unit that goes to one split: the track's content hash, or a hash of its group's name."""
    return digest({"group": group}) if group else track


class UnitSummary:
    """What the rules need to know of the units: how many there are, and the few that may have to move.

    Units with the same labels in the same split differ only by their names, and the rules move the smallest names
    first. So a few of the smallest names stand for all, and a summary stays small whatever the number of units.
    Summaries of parts of the units are joined with `join`.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.free: dict[tuple[tuple[str, ...], str], list[str]] = {}
        self._shared: set[str] = set()

    @property
    def labels(self) -> set[str]:
        """Names of all labels."""
        return {label for label, _ in self.counts}

    @property
    def shared_labels(self) -> set[str]:
        """Names of the labels of units that have several."""
        return self._shared

    def add(self, unit: str, *, labels: Collection[str], split: str, is_fixed: bool) -> None:
        """Adds a unit.

        Args:
            unit: its name.
            labels: the labels of its tracks.
            split: where it is before the rules are applied.
            is_fixed: whether it must stay there.
        """
        self.counts.update((label, split) for label in labels)
        if len(labels) > 1:
            self._shared.update(labels)
        if not is_fixed:
            self._keep_smallest((tuple(sorted(labels)), split), [unit])

    def join(self, other: UnitSummary) -> None:
        """Adds the units of another summary; each unit must be in one of them only."""
        self.counts.update(other.counts)
        self._shared |= other._shared
        for key, names in other.free.items():
            self._keep_smallest(key, names)

    def parted(self, labels: Collection[str]) -> tuple[UnitSummary, UnitSummary]:
        """Returns the summary of the units that have some of these labels, and that of all others.

        Args:
            labels: labels that have no unit together with a label that is missing here.
        """
        inside, outside = UnitSummary(), UnitSummary()
        for key, count in self.counts.items():
            (inside if key[0] in labels else outside).counts[key] = count
        for place, names in self.free.items():
            (inside if place[0][0] in labels else outside).free[place] = names
        return inside, outside

    def _keep_smallest(self, key: tuple[tuple[str, ...], str], names: Collection[str]) -> None:
        kept, most = self.free.setdefault(key, []), _MOST_MOVES * len(key[0])
        kept.extend(names)
        if len(kept) > 2 * most:
            kept.sort()
            del kept[most:]


def find_moves(summary: UnitSummary, *, config: PreprocessConfig, units: int, labels: int) -> dict[str, str]:
    """Applies the rules of `assign_splits` to a summary.

    Args:
        summary: all units of some labels. No unit may have a label that is in another summary.
        config: gives the shares.
        units: number of units of the corpus.
        labels: number of labels of the corpus.

    Returns:
        The new splits of the units that go to another split than their hash says, by the unit's name.
    """
    sizes: Counter[str] = Counter()
    for (label, _), count in summary.counts.items():
        sizes[label] += count
    is_small = units < _SMALL_CORPUS
    wanted = {
        label: _wanted(size, config, mostly_train=is_small and (size > 2 or labels == 1))
        for label, size in sizes.items()
    }
    filler = _Filler(summary, wanted)
    for split in SPLITS:
        for label in sorted(sizes):
            filler.fill(split, label)
    return filler.moved


def _wanted(count: int, config: PreprocessConfig, *, mostly_train: bool) -> dict[str, int]:
    """Returns how many of a label's `count` units each split must have at least."""
    held_out = {"validation": config.validation_share, "test": config.test_share}
    # If the held-out shares sum to one half, only half is left to train on. The margin allows for rounding errors.
    mostly_train = mostly_train and sum(held_out.values()) < 0.5 - 1e-9
    wanted = {"train": count // 2 + 1 if mostly_train else 1}
    left = count - wanted["train"] if count > 2 else 0
    for split, share in held_out.items():
        half = math.floor(count * share / 2 + 0.5)
        wanted[split] = min(left, max(1, min(half, _ENOUGH_HELD_OUT))) if share else 0
        left -= wanted[split]
    return wanted


class _Filler:
    """Moves units to the splits that have too few of a label.

    Args:
        summary: the units.
        wanted: the least number of units, by label and split.
    """

    def __init__(self, summary: UnitSummary, wanted: Mapping[str, Mapping[str, int]]) -> None:
        self.moved: dict[str, str] = {}
        self._wanted = wanted
        self._counts = Counter(summary.counts)
        self._splits: dict[str, str] = {}
        self._labels: dict[str, tuple[str, ...]] = {}
        self._members: defaultdict[str, list[str]] = defaultdict(list)
        for (labels, split), names in summary.free.items():
            for name in names:
                self._splits[name], self._labels[name] = split, labels
            for label in labels:
                self._members[label] += names

    def fill(self, split: str, label: str) -> None:
        """Moves units of a label to a split until the split has enough of them, or no further unit may move."""
        if self._counts[label, split] >= self._wanted[label][split]:
            return
        members = sorted(self._members[label])
        while self._counts[label, split] < self._wanted[label][split]:
            free = [unit for unit in members if self._splits[unit] != split]
            unit = next(filter(self._can_leave, free), free[0] if free and split == "train" else None)
            if unit is None:
                return
            self._move(unit, split)

    def _can_leave(self, unit: str) -> bool:
        """Tells whether a split keeps enough units of each label if this unit leaves it."""
        split = self._splits[unit]
        return all(self._counts[label, split] > self._wanted[label][split] for label in self._labels[unit])

    def _move(self, unit: str, split: str) -> None:
        for label in self._labels[unit]:
            self._counts[label, self._splits[unit]] -= 1
            self._counts[label, split] += 1
        self._splits[unit] = self.moved[unit] = split
