"""A job reuses the work of an earlier one and still ends with the dataset of a clean run."""

import dataclasses
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from job_tools import config_for, count_without_beam, note, run_here, run_without_beam, shard_bytes

from beam_jobs.corpus import discover
from beam_jobs.job import preprocess
from beam_jobs.payload import Job
from beam_jobs.reuse import read_scans, scan_line
from beam_jobs.scan import scan_track
from tfpipe.data.manifest import SKIPPED, TRACKS, load_manifest, load_skipped, load_tracks
from tfpipe.data.verify import verify


def files_of(folder):
    """Returns the files that must be the same after a clean run and after one that reuses work."""
    return {**shard_bytes(folder), **{name: (Path(folder) / name).read_bytes() for name in (TRACKS, SKIPPED)}}


def assert_as_clean(corpus, output, **changes):
    clean = f"{output}-clean"
    shutil.rmtree(clean, ignore_errors=True)
    run_without_beam(config_for(corpus, clean, **changes))
    assert files_of(output) == files_of(clean)
    assert load_manifest(output).fingerprint == load_manifest(Path(clean)).fingerprint
    assert verify(output) == []


def computed(counts):
    return counts["examples"] - counts.get("copied", 0)


def write(path, hz, seconds=2.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, note(hz, seconds, 16_000, seed=round(hz)), 16_000)


def test_added_removed_renamed_and_changed_files(made):
    source, output = made
    write(source / "Cello" / "new.wav", 97.0)  # its label sorts first, so all other labels get another number
    (source / "Piano" / "0.wav").unlink()
    (source / "Piano" / "1.wav").rename(source / "Piano" / "renamed.wav")
    (source / "Human" / "2.wav").rename(source / "Cello" / "2.wav")
    write(source / "Human" / "3.wav", 151.0)
    (source / "Human" / "bad.wav").write_text("no sound")
    counts = count_without_beam(config_for(source, output))
    assert_as_clean(source, output)
    assert counts["decoded"] == 3
    assert counts["skipped:undecodable"] == 1
    new = {discovered.path for discovered in load_tracks(output) if discovered.path in ("Cello/new.wav", "Human/3.wav")}
    ours = sum(track.windows * track.variants for track in load_tracks(output) if track.path in new)
    assert len(new) == 2
    # A track that moved to fill a split may need variants that it did not have.
    assert ours <= computed(counts) <= ours + 4 * 5 * 2


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_after_any_change_of_the_corpus_the_dataset_is_that_of_a_clean_run(seed, job_corpus, tmp_path):
    draw = random.Random(seed)
    source, output = tmp_path / "in", tmp_path / "out"
    everything = sorted(job_corpus.rglob("*.wav"))
    for run in (run_without_beam, run_here):
        shutil.rmtree(source, ignore_errors=True)
        for path in draw.sample(everything, draw.randint(4, len(everything))):
            target = source / draw.choice([path.parent.name, "Other"]) / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        run(config_for(source, output))
    assert_as_clean(source, output)


def test_more_variants_cost_only_themselves(made):
    source, output = made
    more = {"semitones": (0, 3, 4, 7, 8, 12), "overwrite": True, "shard_bytes": 2**17}
    counts = count_without_beam(config_for(source, output, **more))
    windows = sum(track.windows for track in load_tracks(output) if track.split == "train")
    assert computed(counts) == windows
    assert counts["decoded"] == 0
    assert_as_clean(source, output, **more)


@pytest.mark.parametrize("other", [{"engine": "waveform"}, {"spec": {"fmax": 6_000.0}}])
def test_nothing_is_reused_for_other_features(made, other):
    source, output = made
    if "spec" in other:
        other = {"spec": dataclasses.replace(config_for(source, output).spec, **other["spec"])}
    few = {"semitones": (0, 4), "chords": ()}
    counts = count_without_beam(config_for(source, output, overwrite=True, **few, **other))
    assert computed(counts) == counts["examples"] > 0


def test_damaged_shards_of_the_old_dataset_are_not_reused(made):
    source, output = made
    path = next(output.glob("train-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    next(output.glob("test-*")).unlink()
    counts = count_without_beam(config_for(source, output))
    assert 0 < computed(counts) < counts["examples"]
    assert_as_clean(source, output)


def test_a_half_written_shard_of_a_killed_job_is_used(made, tmp_path):
    source, output = made
    job = Job(config=config_for(source, tmp_path / "other"), corpus=discover([str(source)]))
    whole = max(output.glob("train-*"), key=lambda path: path.stat().st_size)
    Path(job.work).mkdir(parents=True)
    for share in (4, 2, 3):  # of several attempts at one shard the longest is kept
        part = whole.read_bytes()[: whole.stat().st_size // share]
        (Path(job.work) / f"name.tfrecord.tmp-{share}").write_bytes(part)
    counts = count_without_beam(job.config)
    examples = next(shard.examples for shard in load_manifest(output).shards if shard.name == whole.name)
    assert examples // 2 - 2 <= counts["copied"] <= examples // 2
    assert files_of(tmp_path / "other") == files_of(output)


def test_scans_of_a_killed_job_are_used_except_an_incomplete_line(made, tmp_path):
    source, _ = made
    job = Job(config=config_for(source, tmp_path / "other"), corpus=discover([str(source)]))
    text = "".join(scan_line(scan_track(file, job.config)) for file in job.corpus.files)
    Path(job.work).mkdir(parents=True)
    (Path(job.scratch) / f"scans-{job.scan_digest}-1.jsonl").write_text(text[:-40])
    (Path(job.scratch) / "scans-0123456789abcdef-1.jsonl").write_text("scans of other settings")
    assert count_without_beam(job.config)["decoded"] == 1
    assert_as_clean(source, tmp_path / "other")


def test_a_skipped_file_is_scanned_again_only_after_it_is_renamed(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    write(source / "Piano" / "good.wav", 330.0)
    soundfile.write(source / "Piano" / "silence.wav", np.zeros(32_000), 16_000)
    assert count_without_beam(config_for(source, output))["decoded"] == 2
    write(source / "Piano" / "more.wav", 440.0)
    assert count_without_beam(config_for(source, output))["decoded"] == 1
    (source / "Piano" / "silence.wav").rename(source / "Piano" / "quiet.wav")
    assert count_without_beam(config_for(source, output))["decoded"] == 1
    (row,) = load_skipped(output)
    assert (row.path, row.code) == ("Piano/quiet.wav", "silent")
    assert "quiet.wav" in row.message


def test_changed_content_with_the_old_time_stamp_is_noticed(made, in_process):
    source, output = made
    victim = source / "Piano" / "4.wav"
    before = victim.stat()
    data = bytearray(victim.read_bytes())
    data[-101] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    old = load_manifest(output).fingerprint
    assert preprocess(config_for(source, output), quiet=True).fingerprint != old
    assert_as_clean(source, output)


def test_a_lost_track_list_is_made_again(made, in_process, capsys):
    source, output = made
    before = files_of(output)
    (output / TRACKS).unlink()
    preprocess(config_for(source, output))
    assert files_of(output) == before
    assert "12 files (0 decoded now, none skipped)" in capsys.readouterr().err


def test_a_scan_survives_its_json_line(made):
    source, output = made
    (scan, *_) = [scan_track(file, config_for(source, output)) for file in discover([str(source)]).files]
    (again,) = read_scans([scan_line(scan)])
    assert dataclasses.replace(again, file=scan.file) == scan
    assert again.file.path == scan.file.path


def test_an_older_datasets_splits_are_kept(made, tmp_path):
    source, output = made
    old = {track.hash: track.split for track in load_tracks(output)}
    for index in range(6):
        write(source / "Cello" / f"{index}.wav", 60.0 + 7 * index)
    for path in (source / "Human").glob("*.wav"):
        path.unlink()
    shares = {"validation_share": 0.4, "test_share": 0.3}
    kept = config_for(source, tmp_path / "kept", splits_from=str(output), **shares)
    run_without_beam(kept)
    now = {track.hash: track.split for track in load_tracks(tmp_path / "kept")}
    assert {track: split for track, split in now.items() if track in old} == {
        track: old[track] for track in old.keys() & now.keys()
    }
    assert len(old.keys() & now.keys()) == 6
    assert {now[track] for track in now.keys() - old.keys()} == {"train", "validation", "test"}
    run_without_beam(config_for(source, tmp_path / "free", **shares))
    free = {track.hash: track.split for track in load_tracks(tmp_path / "free")}
    assert free != now
