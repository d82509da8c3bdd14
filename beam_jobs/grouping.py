"""Makes one unit of all tracks of a group, because they go to one split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from beam_jobs.config import PreprocessConfig
from beam_jobs.splits import split_of


class Member(NamedTuple):
    """A track that has a group.

    Attributes:
        unit: name of the group's unit.
        label: the track's label.
        track: its content hash.
        kept: the split that the track must keep, or empty.
        place: the range of its content hash.
    """

    unit: str
    label: str
    track: str
    kept: str
    place: int


class Unit(NamedTuple):
    """A group.

    Attributes:
        name: name of the unit.
        labels: labels of its tracks, sorted.
        split: where the unit is before splits are filled.
        is_fixed: whether it must stay there.
        places: the ranges of the content hashes of its tracks.
    """

    name: str
    labels: tuple[str, ...]
    split: str
    is_fixed: bool
    places: tuple[int, ...]


def sum_group(members: Sequence[Member], config: PreprocessConfig) -> Unit:
    """Returns the unit of a group. If several tracks keep a split, the one with the smallest hash decides.

    Args:
        members: all tracks of the group.
        config: gives the shares of the splits.
    """
    name = members[0].unit
    kept = min((member for member in members if member.kept), key=lambda member: member.track, default=None)
    return Unit(
        name=name,
        labels=tuple(sorted({member.label for member in members})),
        split=kept.kept if kept else split_of(name, config),
        is_fixed=kept is not None,
        places=tuple(sorted({member.place for member in members})),
    )
