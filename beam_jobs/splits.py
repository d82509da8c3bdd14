"""Decides the split of each track, as a pure function of content hashes, labels and groups."""

from __future__ import annotations

import math
from collections import defaultdict
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
    units = {track: digest({"group": groups[track]}) if track in groups else track for track in labels}
    fixed = {units[track]: kept[track] for track in sorted(units, reverse=True) if track in kept}
    splits = {unit: fixed.get(unit) or split_of(unit, config) for unit in units.values()}
    by_label: defaultdict[str, set[str]] = defaultdict(set)
    for track, unit in units.items():
        by_label[labels[track]].add(unit)
    is_small, has_labels = len(splits) < _SMALL_CORPUS, len(by_label) > 1
    wanted = {
        label: _wanted(len(members), config, mostly_train=is_small and (len(members) > 2 or not has_labels))
        for label, members in by_label.items()
    }
    for split in SPLITS:
        for label in sorted(by_label):
            _fill(split, label, splits=splits, by_label=by_label, wanted=wanted, fixed=fixed)
    return {track: splits[unit] for track, unit in units.items()}


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


def _fill(
    split: str,
    label: str,
    *,
    splits: dict[str, str],
    by_label: Mapping[str, set[str]],
    wanted: Mapping[str, Mapping[str, int]],
    fixed: Collection[str],
) -> None:
    """Moves units of a label to a split until the split has enough of them, or no further unit may move."""
    members = sorted(by_label[label])
    while sum(splits[unit] == split for unit in members) < wanted[label][split]:
        free = [unit for unit in members if unit not in fixed and splits[unit] != split]
        spare = [unit for unit in free if _can_leave(unit, splits, by_label, wanted)]
        if not spare and not (free and split == "train"):
            return
        splits[(spare or free)[0]] = split


def _can_leave(
    unit: str, splits: Mapping[str, str], by_label: Mapping[str, set[str]], wanted: Mapping[str, Mapping[str, int]]
) -> bool:
    """Tells whether a split keeps enough units of each label if this unit leaves it."""
    return all(
        sum(splits[other] == splits[unit] for other in members - {unit}) >= wanted[label][splits[unit]]
        for label, members in by_label.items()
        if unit in members
    )
