import dataclasses
import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile, Corpus
from beam_jobs.plan import TrackWindows, assign_splits, cut_shards, example_key, input_digest, make_plan, split_of
from beam_jobs.scan import Scan
from tfpipe.data.manifest import SPLITS, Skipped
from tfpipe.errors import TfpipeError

CONFIG = PreprocessConfig(inputs=("in",), output="out")
LABELS = st.dictionaries(st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest()), st.sampled_from("ABC"))


def scan(name, *, content=None, label="L", starts=(0, 110_250), code=None):
    skipped = Skipped(path=name, code=code, message=f"{name}: {code}") if code else None
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    return Scan(file=AudioFile(name, f"/x/{name}", label), hash=digest, starts=starts, seconds=10.0, skipped=skipped)


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


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12), st.integers(2**16, 2**22), st.randoms())
def test_shards_hold_every_window_once_in_key_order(sizes, shard_bytes, random):
    config = PreprocessConfig(inputs=("in",), output="out", shard_bytes=shard_bytes)
    tracks = [
        TrackWindows(
            path=str(i), hash=f"{i:016x}" + 48 * "0", stamp=(0, 0), label=0, starts=tuple(range(0, 5 * size, 5))
        )
        for i, size in enumerate(sizes)
    ]
    random.shuffle(tracks)
    shards = cut_shards(tracks, split="train", config=config)
    keys = [
        example_key(track.hash, start, variant)
        for shard in shards
        for track in shard.tracks
        for start in track.starts
        for variant in shard.variants
    ]
    assert keys == sorted(set(keys))
    assert len(keys) == sum(sizes) * len(config.train_variants)
    assert [shard.name for shard in shards] == [
        f"train-{i:05d}-of-{len(shards):05d}.tfrecord" for i in range(len(shards))
    ]
    windows = [shard.examples // len(shard.variants) for shard in shards]
    assert not windows or max(windows) - min(windows) <= 1 <= min(windows)


def test_plan_does_not_depend_on_the_order_of_scans():
    scans = [scan(f"{i}.wav", label="AB"[i % 2]) for i in range(9)]
    assert make_plan(scans, skipped=(), config=CONFIG) == make_plan(scans[::-1], skipped=(), config=CONFIG)


def test_duplicates_count_once_and_are_reported():
    scans = [scan("b.wav", content="same", label="B"), scan("a.wav", content="same", label="A"), scan("c.wav")]
    plan = make_plan(scans, skipped=(), config=CONFIG)
    assert sorted(track.path for track in plan.tracks) == ["a.wav", "c.wav"]
    (row,) = plan.skipped
    assert (row.path, row.code) == ("b.wav", "duplicate")
    assert "with label 'A' instead of 'B'" in row.message


def test_one_track_makes_a_training_set():
    for name in map(str, range(20)):
        plan = make_plan([scan(name)], skipped=(), config=CONFIG)
        assert [shard.split for shard in plan.shards] == ["train"]


def test_too_much_skipped_fails_with_the_reasons():
    scans = [scan("a"), scan("b", code="empty"), scan("c", code="empty"), scan("d", code="silent")]
    with pytest.raises(TfpipeError, match=r"3 of 4 audio files .*50%.*: 2 empty, 1 silent; the first is b: empty"):
        make_plan(scans, skipped=(), config=CONFIG)
    assert len(make_plan(scans[:2], skipped=(), config=CONFIG).tracks) == 1
    with pytest.raises(TfpipeError, match=r"all 2 files are shorter than 2.5 s"):
        make_plan([scan("a", code="too_short"), scan("b", code="too_short")], skipped=(), config=CONFIG)
    with pytest.raises(TfpipeError, match=r"all 2 files are silent: every window is under -60 dBFS, as in a; check"):
        make_plan([scan("a", code="silent"), scan("b", code="silent")], skipped=(), config=CONFIG)


GROUPS = st.dictionaries(
    st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest()),
    st.tuples(st.sampled_from("ABC"), st.sampled_from(["", "g1", "g2", "g3", "g4"])),
)


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


def test_a_chosen_split_holds_and_is_part_of_the_jobs_input():
    scans = [scan(f"{index}.wav") for index in range(4)]
    chosen = dataclasses.replace(scans[2], file=dataclasses.replace(scans[2].file, split="test"))
    plan = make_plan([*scans[:2], chosen, scans[3]], skipped=(), config=CONFIG)
    assert {track.path: track.split for track in plan.tracks}["2.wav"] == "test"
    corpus = Corpus(base="/x", files=())
    assert input_digest([(chosen.file, chosen.hash)], corpus) != input_digest([(scans[2].file, chosen.hash)], corpus)
    kept = Corpus(base="/x", files=(), splits={chosen.hash: "test"})
    assert input_digest([(chosen.file, chosen.hash)], corpus) == input_digest([(scans[2].file, chosen.hash)], kept)
