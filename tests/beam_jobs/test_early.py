"""Examples that the scan keeps: the shard writer copies them, and whatever becomes of them, the dataset is the same."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from job_tools import config_for, count_without_beam, run_without_beam, shard_bytes

from beam_jobs import early, pipeline, reuse, shards
from beam_jobs.corpus import discover
from beam_jobs.early import EarlyExamples
from beam_jobs.metrics import Meter
from beam_jobs.payload import Job
from beam_jobs.plan import make_plan
from beam_jobs.scan import scan_track
from beam_jobs.splits import split_of
from tfpipe.data.manifest import load_tracks
from tfpipe.data.records import decode_example, read_records
from tfpipe.errors import TfpipeError


@pytest.fixture
def opened(monkeypatch):
    """Collects the paths of the recordings that shard writers open."""
    found = []
    reader = shards.TrackReader

    def opened(path):
        found.append(Path(path))
        return reader(path)

    monkeypatch.setattr(shards, "TrackReader", opened)
    return found


@pytest.fixture
def scanned(job_corpus, tmp_path):
    """The scans of `job_corpus`, and where their examples are."""
    config = config_for(job_corpus, tmp_path / "out")
    home = EarlyExamples(folder=str(tmp_path / "early"), config=config)
    return home, [scan_track(file, config, early=home) for file in discover(config.inputs).files]


def files_of(home):
    return sorted(Path(home.folder).iterdir())


def write_all(home, scans, folder, expected):
    """Writes all shards and compares them with a dataset."""
    for plan in make_plan(scans, config=home.config).shards:
        shards.write_shard(plan, config=home.config, folder=str(folder), early=home)
        ours = (folder / f"{plan.digest}.tfrecord").read_bytes()
        assert ours == (expected / plan.name).read_bytes(), plan.name


def test_no_recording_is_decoded_twice_except_those_of_another_split_than_expected(
    job_corpus, job_dataset, tmp_path, opened
):
    config = config_for(job_corpus, tmp_path / "out")
    counts = count_without_beam(config)
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)
    moved = [row for row in load_tracks(tmp_path / "out") if row.split == "train" != split_of(row.hash, config)]
    assert sorted(opened) == sorted(job_corpus / row.path for row in moved)
    assert len(moved) < 3
    assert counts.get("copied", 0) == 0  # only what an earlier job has made counts as copied
    assert not (tmp_path / "out" / ".work").exists()


def test_without_scratch_files_each_recording_is_decoded_again(job_corpus, job_dataset, tmp_path, opened):
    run_without_beam(config_for(job_corpus, tmp_path / "out", scratch_gib=0.0))
    assert len(set(opened)) == len(list(job_corpus.rglob("*.wav")))
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)


def test_lost_cut_and_damaged_files_are_computed_again(scanned, job_dataset, tmp_path, opened):
    home, scans = scanned
    whole, lost, cut, damaged, empty, *_ = files_of(home)
    lost.unlink()
    os.truncate(cut, cut.stat().st_size // 2)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 1
    damaged.write_bytes(data)
    os.truncate(empty, 0)
    write_all(home, scans, tmp_path / "w", job_dataset)
    again = {scan.hash for scan in scans if Path(scan.file.path) in opened}
    assert {path.name.partition("-")[0] for path in (lost, cut, damaged, empty)} <= again
    assert whole.name.partition("-")[0] not in again


def test_a_track_of_many_windows_has_several_files_and_they_go_when_they_are_used(
    job_corpus, job_dataset, tmp_path, monkeypatch, opened
):
    monkeypatch.setattr(early, "_WINDOWS", 2)
    config = config_for(job_corpus, tmp_path / "out")
    home = EarlyExamples(folder=str(tmp_path / "early"), config=config)
    scans = [scan_track(file, config, early=home) for file in discover(config.inputs).files]
    assert len(files_of(home)) == 2 * len(scans)
    write_all(home, scans, tmp_path / "w", job_dataset)
    assert len(set(opened)) < 3
    # Of each shard the first and the last file stay.
    assert len(files_of(home)) <= 2 * len(make_plan(scans, config=config).shards) < 2 * len(scans)


def test_a_disk_that_is_short_ends_it_quietly(scanned, job_dataset, tmp_path):
    home, scans = scanned
    shutil.rmtree(home.folder)
    short = dataclasses.replace(home, least_free=2**62)
    for scan in scans:
        assert scan_track(scan.file, home.config, early=short) == scan
    assert files_of(home) == []
    Path(home.folder).rmdir()
    Path(home.folder).write_text("a file in the way")
    assert [scan_track(scan.file, home.config, early=home) for scan in scans] == scans
    write_all(home, scans, tmp_path / "w", job_dataset)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a small file system")
def test_on_a_full_disk_they_make_room_for_the_shards(job_corpus, job_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(reuse, "least_free", lambda folder, *, most, held: 0)
    small, size = tmp_path / "small", sum(map(len, shard_bytes(job_dataset).values()))
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + 150_000}", "tmpfs", small]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        cleared, make_room = [], EarlyExamples.make_room

        def watched(home, error):
            cleared.append(home.folder)
            return make_room(home, error)

        monkeypatch.setattr(EarlyExamples, "make_room", watched)
        run_without_beam(config_for(job_corpus, small / "out"))
        assert cleared
        assert shard_bytes(small / "out") == shard_bytes(job_dataset)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_another_error_than_a_full_disk_leaves_them(scanned):
    home, _ = scanned
    error = TfpipeError("no permission")
    error.__cause__ = PermissionError(13, "Permission denied")
    assert not home.make_room(error)
    assert files_of(home)


def test_the_next_job_uses_those_of_a_job_that_was_killed(job_corpus, job_dataset, tmp_path, monkeypatch, opened):
    config = config_for(job_corpus, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write", lambda plan, job: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            run_without_beam(config)
    folder = Path(Job(config=config, corpus=discover(config.inputs)).early_folder)
    half = folder / f".{'0' * 64}-000000.tmp-12345678"
    half.write_bytes(b"half a record")
    reuse.salvage(Job(config=config, corpus=discover(config.inputs)))
    assert not half.exists()
    assert count_without_beam(config)["decoded"] == 0
    assert len(set(opened)) < 3
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)


def test_nothing_is_kept_of_a_file_that_is_skipped_or_changes_while_it_is_read(scanned, tmp_path, monkeypatch):
    home, scans = scanned
    shutil.rmtree(home.folder)
    track = tmp_path / "x.wav"
    data = Path(scans[0].file.path).read_bytes()
    file = dataclasses.replace(scans[0].file, path=str(track))
    track.write_bytes(data[: len(data) // 2])
    assert scan_track(file, home.config, early=home).skipped is not None
    track.write_bytes(data)
    add = early.EarlyTrack.add

    def touched(made, start, audio):
        os.utime(track, ns=(1, 1))
        add(made, start, audio)

    monkeypatch.setattr(early.EarlyTrack, "add", touched)
    assert scan_track(file, home.config, early=home).skipped is None
    assert files_of(home) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"split": "train"}, 6),
        ({"split": "test"}, 1),
        ({"group": "a"}, 6),
        ({"group": "l"}, 1),
        ({}, 1),
    ],
)
def test_the_split_decides_which_variants_are_made(scanned, changes, expected):
    """A split that is given or kept counts first, then that of the group, then that of the content."""
    home, scans = scanned
    shutil.rmtree(home.folder)
    home = dataclasses.replace(home, splits={} if changes else {scans[0].hash: "validation"})
    file = dataclasses.replace(scans[0].file, **changes)
    scan_track(file, home.config, early=home)
    (path,) = files_of(home)
    found = [decode_example(data, home.config.spec.mel_shape) for data in read_records(path)]
    assert len(found) == expected * len(scans[0].starts)


@pytest.mark.parametrize("changes", [{"engine": "waveform"}, {"noise_snr": (20.0,)}, {"stretch": (1.1,)}])
def test_what_needs_samples_is_left_to_the_shard_writers(changes, scanned, tmp_path):
    home, scans = scanned
    shutil.rmtree(home.folder)
    config = dataclasses.replace(home.config, held_out_variants=True, **changes)
    home = dataclasses.replace(home, config=config)
    assert scan_track(scans[0].file, config, early=home) == scans[0]
    assert not Path(home.folder).exists()
    with home.of(scans[0].file, scans[0].hash, Meter()) as made:
        made.keep()
