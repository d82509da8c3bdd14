"""Which split each track gets, by its hash, its label and its group."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.config import PreprocessConfig
from beam_jobs.splits import UnitSummary, _wanted, assign_splits, find_moves, split_of, unit_of
from tfpipe.data.manifest import SPLITS

CONFIG = PreprocessConfig(inputs=("in",), output="out")
LABELS = st.dictionaries(st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest()), st.sampled_from("ABC"))

GROUPS = st.dictionaries(
    st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest()),
    st.tuples(st.sampled_from("ABC"), st.sampled_from(["", "g1", "g2", "g3", "g4"])),
)


def named(count, label="A", *, first=0):
    """Returns labels by hash, of `count` tracks."""
    return {
        hashlib.sha256(bytes([index // 256, index % 256])).hexdigest(): label for index in range(first, first + count)
    }


def sizes_of(splits, labels, label):
    return Counter(splits[track] for track in labels if labels[track] == label)


@given(LABELS)
def test_every_label_trains_and_three_tracks_hold_one_out(labels):
    splits = assign_splits(labels, config=CONFIG)
    for label in set(labels.values()):
        sizes = sizes_of(splits, labels, label)
        assert sizes["train"] >= 1
        if sizes.total() >= 3:
            assert sizes["validation"] >= 1
            assert sizes["test"] >= 1 or (len(labels) < 20 and sizes.total() < 5)
            assert sizes["train"] > sizes.total() / 2 or len(labels) >= 20


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (2, 1, 0)), (4, (3, 1, 0))])
def test_a_few_recordings_train_on_most_of_them_and_hold_out_one(count, expected):
    for first in range(40):
        labels = named(count, first=first)
        sizes = sizes_of(assign_splits(labels, config=CONFIG), labels, "A")
        assert tuple(sizes[split] for split in SPLITS) == expected


def test_a_few_recordings_of_each_of_many_labels_still_stand_in_every_split():
    labels = {**named(3, "A"), **named(3, "B", first=100), **named(30, "C", first=200)}
    splits = assign_splits(labels, config=CONFIG)
    for label in "AB":
        assert sizes_of(splits, labels, label) == {"train": 1, "validation": 1, "test": 1}


def test_two_recordings_of_each_of_many_labels_are_split_by_their_hashes():
    labels = {track: str(index // 2) for index, track in enumerate(named(16))}
    splits = assign_splits(labels, config=CONFIG)
    assert all(sizes_of(splits, labels, str(index))["train"] >= 1 for index in range(8))
    assert set(splits.values()) != {"train"}


def test_held_out_splits_get_half_of_their_share_but_need_no_more_than_five_tracks():
    for first in range(40):
        labels = named(60, first=10 * first)
        sizes = sizes_of(assign_splits(labels, config=CONFIG), labels, "A")
        assert min(sizes["validation"], sizes["test"]) >= 3
    many = named(200)
    assert assign_splits(many, config=CONFIG) == {track: split_of(track, CONFIG) for track in many}


def test_kept_splits_hold_in_a_small_corpus():
    kept = dict(zip(named(3), SPLITS, strict=True))
    assert assign_splits(named(3), config=CONFIG, kept=kept) == kept


def test_adding_a_track_moves_at_most_two_others():
    for first in (0, 1000, 2000):
        before: dict[str, str] = {}
        for count in range(1, 100):
            after = assign_splits(named(count, first=first), config=CONFIG)
            assert sum(before[track] != after[track] for track in before) <= 2
            before = after


def test_shares_hold_over_many_tracks():
    tracks = [hashlib.sha256(bytes([a, b])).hexdigest() for a in range(40) for b in range(100)]
    shares = Counter(split_of(track, CONFIG) for track in tracks)
    assert shares["train"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert shares["validation"] / 4000 == pytest.approx(0.1, abs=0.02)


def test_a_split_that_was_not_asked_for_stays_empty():
    config = PreprocessConfig(inputs=("in",), output="out", validation_share=0.0, test_share=0.0)
    labels = {hashlib.sha256(bytes([i])).hexdigest(): "A" for i in range(50)}
    assert set(assign_splits(labels, config=config).values()) == {"train"}


@given(GROUPS)
def test_groups_stay_together_and_every_label_trains(tracks):
    labels = {track: label for track, (label, _) in tracks.items()}
    groups = {track: group for track, (_, group) in tracks.items() if group}
    splits = assign_splits(labels, config=CONFIG, groups=groups)
    for group in set(groups.values()):
        assert len({splits[track] for track in groups if groups[track] == group}) == 1
    for label in set(labels.values()):
        assert "train" in {splits[track] for track in labels if labels[track] == label}
    assert splits == assign_splits(dict(reversed(labels.items())), config=CONFIG, groups=groups)


@given(LABELS)
def test_a_group_of_one_label_counts_as_a_track(labels):
    groups = {track: labels[track] + str(index % 5) for index, track in enumerate(sorted(labels))}
    splits = assign_splits(labels, config=CONFIG, groups=groups)
    for label in set(labels.values()):
        tracks = [track for track in labels if labels[track] == label]
        if len({groups[track] for track in tracks}) == 5:
            assert {splits[track] for track in tracks} == set(SPLITS)


def test_the_groups_name_decides_not_its_members():
    members = {hashlib.sha256(bytes([i])).hexdigest(): "A" for i in range(60)}
    groups = {track: f"g{index % 6}" for index, track in enumerate(sorted(members))}
    half = dict(sorted(members.items())[:30])
    before = assign_splits(half, config=CONFIG, groups=groups)
    after = assign_splits(members, config=CONFIG, groups=groups)
    assert {track: after[track] for track in half} == before


def assigned_by_looking_at_every_unit(labels, groups, kept, config):
    """Returns the splits by the rules as they are written, with every count taken anew; it takes quadratic time."""
    units = {track: unit_of(track, groups.get(track, "")) for track in labels}
    fixed = {units[track]: kept[track] for track in sorted(units, reverse=True) if track in kept}
    splits = {unit: fixed.get(unit) or split_of(unit, config) for unit in units.values()}
    members = {label: {units[track] for track in labels if labels[track] == label} for label in labels.values()}
    small, alone = len(splits) < 20, len(members) == 1
    wanted = {
        label: _wanted(len(ours), config, mostly_train=small and (len(ours) > 2 or alone))
        for label, ours in members.items()
    }

    def count(label, split):
        return sum(splits[unit] == split for unit in members[label])

    def can_leave(unit):
        ours = [label for label in members if unit in members[label]]
        return all(count(label, splits[unit]) - 1 >= wanted[label][splits[unit]] for label in ours)

    for split in SPLITS:
        for label in sorted(members):
            while count(label, split) < wanted[label][split]:
                free = [unit for unit in sorted(members[label]) if unit not in fixed and splits[unit] != split]
                found = [*filter(can_leave, free), *(free if split == "train" else [])]
                if not found:
                    break
                splits[found[0]] = split
    return {track: splits[unit] for track, unit in units.items()}


@given(GROUPS, st.sampled_from([(0.1, 0.1), (0.4, 0.4), (0.0, 0.3)]), st.randoms(use_true_random=False))
def test_few_units_stand_for_all_of_them(tracks, shares, random):
    config = PreprocessConfig(inputs=("in",), output="out", validation_share=shares[0], test_share=shares[1])
    labels = {track: label for track, (label, _) in tracks.items()}
    groups = {track: group for track, (_, group) in tracks.items() if group}
    kept = {track: random.choice(SPLITS) for track in sorted(labels) if random.random() < 0.1}
    expected = assigned_by_looking_at_every_unit(labels, groups, kept, config)
    assert assign_splits(labels, config=config, groups=groups, kept=kept) == expected


def test_summaries_of_parts_stay_small_and_give_the_moves_of_the_whole():
    labels = {**named(3000, "A"), **named(40, "B", first=5000)}
    crowd = {track: "train" for track, label in labels.items() if label == "A"}  # none of A is held out by its hash
    whole, parts = UnitSummary(), [UnitSummary() for _ in range(7)]
    for index, (track, label) in enumerate(labels.items()):
        split = crowd.get(track) or split_of(track, CONFIG)
        for summary in (whole, parts[index % 7]):
            summary.add(track, labels=[label], split=split, is_fixed=False)
    joined = UnitSummary()
    for part in parts:
        joined.join(part)
    moves = find_moves(whole, config=CONFIG, units=len(labels), labels=2)
    assert moves == find_moves(joined, config=CONFIG, units=len(labels), labels=2)
    assert sorted(moves) == sorted(crowd)[:10]
    assert sum(map(len, joined.free.values())) <= 4 * 40
