import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile
from beam_jobs.plan import TrackWindows, assign_splits, cut_shards, example_key, make_plan, split_of
from beam_jobs.scan import Scan
from tfpipe.data.manifest import SPLITS, Skipped
from tfpipe.errors import TfpipeError

CONFIG = PreprocessConfig(inputs=("in",), output="out")
LABELS = st.dictionaries(st.binary(max_size=4).map(lambda b: hashlib.sha256(b).hexdigest()), st.sampled_from("ABC"))


def scan(name, *, content=None, label="L", starts=(0, 110_250), code=None):
    skipped = Skipped(path=name, code=code, message=f"{name}: {code}") if code else None
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    return Scan(file=AudioFile(name, f"/x/{name}", label), hash=digest, starts=starts, seconds=10.0, skipped=skipped)


@given(LABELS)
def test_every_label_trains_and_three_tracks_stand_everywhere(labels):
    splits = assign_splits(labels, config=CONFIG)
    for label in set(labels.values()):
        sizes = Counter(splits[track] for track in labels if labels[track] == label)
        assert sizes["train"] >= 1
        if sizes.total() >= 3:
            assert set(sizes) == set(SPLITS)


@given(LABELS, LABELS)
def test_adding_tracks_moves_only_what_filled_an_empty_split(old, new):
    both = {**new, **old}
    before, after = assign_splits(old, config=CONFIG), assign_splits(both, config=CONFIG)
    for label in set(both.values()):
        natural = {split_of(track, CONFIG) for track in old if old[track] == label}
        moved = [track for track in old if old[track] == label and before[track] != after[track]]
        filled = [track for track in both if both[track] == label and after[track] != split_of(track, CONFIG)]
        assert not (moved and natural == set(SPLITS))
        assert len(filled) <= 2


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
        if len({groups[track] for track in tracks}) >= 3:
            assert {splits[track] for track in tracks} == set(SPLITS)


def test_the_groups_name_decides_not_its_members():
    members = {hashlib.sha256(bytes([i])).hexdigest(): "A" for i in range(60)}
    groups = {track: f"g{index % 6}" for index, track in enumerate(sorted(members))}
    half = dict(sorted(members.items())[:30])
    before = assign_splits(half, config=CONFIG, groups=groups)
    after = assign_splits(members, config=CONFIG, groups=groups)
    assert {track: after[track] for track in half} == before
