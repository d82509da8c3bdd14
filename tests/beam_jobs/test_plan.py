import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile
from beam_jobs.plan import TrackWindows, cut_shards, example_key, make_plan, shard_count
from beam_jobs.scan import Scan
from tfpipe.data.manifest import Skipped
from tfpipe.errors import TfpipeError

CONFIG = PreprocessConfig(inputs=("in",), output="out")


def scan(name, *, content=None, label="L", starts=(0, 110_250), code=None):
    skipped = Skipped(path=name, code=code, message=f"{name}: {code}") if code else None
    digest = hashlib.sha256((content or name).encode()).hexdigest()
    return Scan(file=AudioFile(name, f"/x/{name}", label), hash=digest, starts=starts, seconds=10.0, skipped=skipped)


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


def test_a_chosen_split_holds():
    scans = [scan(f"{index}.wav") for index in range(4)]
    chosen = dataclasses.replace(scans[2], file=dataclasses.replace(scans[2].file, split="test"))
    plan = make_plan([*scans[:2], chosen, scans[3]], skipped=(), config=CONFIG)
    assert {track.path: track.split for track in plan.tracks}["2.wav"] == "test"


def test_a_split_with_more_shards_than_names_is_refused_with_the_size_that_fits():
    with pytest.raises(
        TfpipeError, match=r"'train' would have \d{6} shards, .* at most 99999; use --shard-mib \d+ or"
    ) as e:
        shard_count(10**8, split="train", config=CONFIG)
    fits = int(str(e.value).rpartition("--shard-mib ")[2].split()[0])
    assert shard_count(10**8, split="train", config=dataclasses.replace(CONFIG, shard_bytes=fits * 2**20)) <= 99_999
