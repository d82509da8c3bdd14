"""The job as a whole: what it keeps, what it reports, and that nothing depends on how it ran."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from job_tools import SMALL, config_for, note, run_here, shard_bytes, write_corpus

from beam_jobs.corpus import discover
from beam_jobs.job import preprocess
from tfpipe.audio.reader import probe
from tfpipe.data.manifest import load_manifest, load_skipped, load_tracks
from tfpipe.data.records import decode_example, read_records
from tfpipe.data.verify import verify
from tfpipe.errors import TfpipeError
from tfpipe.spec import FeatureSpec

ROOT = Path(__file__).resolve().parents[2]


def examples(folder, split="*"):
    manifest = load_manifest(folder)
    for path in sorted(folder.glob(f"{split}-*.tfrecord")):
        for data in read_records(path):
            yield decode_example(data, manifest.spec.mel_shape)


def start_job(corpus, output, marker, **changes):
    """Starts `preprocess` in a process of its own, whose descendants all carry `marker`."""
    code = (
        "import pickle, sys; from beam_jobs.job import preprocess\n"
        "preprocess(pickle.load(sys.stdin.buffer), quiet=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TFPIPE_TEST": marker},
    )
    process.stdin.write(pickle.dumps(config_for(corpus, output, **changes)))
    process.stdin.close()
    process.stdin = None
    return process


def descendants(marker):
    """Command lines of the living processes that carry `marker`, by process number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"TFPIPE_TEST={marker}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def wait_for(condition, *, seconds=150.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """Enough work that a job can be caught in the middle of it."""
    return write_corpus(tmp_path_factory.mktemp("long"), tracks=3, seconds=20.0)


def test_dataset_is_whole_and_counts_agree(job_dataset):
    manifest, tracks = load_manifest(job_dataset), load_tracks(job_dataset)
    assert verify(job_dataset) == []
    assert manifest.labels == ("Human", "Piano")
    assert {track.windows for track in tracks} == {4}
    for split in ("train", "validation", "test"):
        found = list(examples(job_dataset, split))
        ours = [track for track in tracks if track.split == split]
        assert len(found) == manifest.examples(split) == sum(track.windows * track.variants for track in ours) > 0
        assert {example.track for example in found} == {track.hash for track in ours}
        assert {example.label for example in found} == {0, 1}
        assert [example.key for example in found] == sorted({example.key for example in found})
    assert {example.variant for example in examples(job_dataset, "test")} == {"original"}
    assert len(list(job_dataset.glob("train-*"))) > 1
    assert not (job_dataset / ".work").exists()


def test_original_codes_are_the_notebooks(clips, tmp_path):
    """Every stored original against librosa called as in the notebook (In [8])."""
    spec = FeatureSpec()
    inputs = [clips[0], clips[-1]]
    run_here(config_for(inputs, tmp_path / "out", spec=spec, semitones=(0, 4)))
    paths = {track.hash: track.path for track in load_tracks(tmp_path / "out")}
    base = discover([str(path) for path in inputs]).base
    originals = [example for example in examples(tmp_path / "out") if example.variant == "original"]
    assert len(originals) >= 4
    for example in originals:
        audio, rate = librosa.load(os.path.join(base, paths[example.track]), sr=22_050)
        start = round(example.start_s * rate)
        window = librosa.util.fix_length(audio[start : start + spec.samples], size=spec.samples)
        mel = librosa.feature.melspectrogram(
            y=window, sr=rate, n_fft=2048, hop_length=512, n_mels=128, fmin=30, fmax=8000, power=1.0
        )
        codes = np.rint((librosa.power_to_db(mel, ref=np.max) / 80 + 1) * 255)
        assert np.abs(codes - example.mel).max() <= 1
        assert example.ref_db == pytest.approx(10 * np.log10(mel.max()), abs=1e-3)


def test_two_workers_and_any_order_give_the_same_bytes(job_corpus, job_dataset, tmp_path, monkeypatch):
    trap = tmp_path / "trap" / "tensorflow"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", str(trap.parent))
    shuffled = [job_corpus / "Piano", *sorted((job_corpus / "Human").iterdir(), reverse=True)]
    manifest = preprocess(config_for(shuffled, tmp_path / "out", workers=2), quiet=True)
    assert manifest.fingerprint == load_manifest(job_dataset).fingerprint
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)
    assert not (tmp_path / "imported").exists()


def odd_files(folder):
    """Writes files that go wrong in every way; returns their fate by name (None: used)."""
    good, rate = note(440, 1.6, 16_000), 16_000
    folder.mkdir()

    def audio(name, samples, rate=rate, **how):
        with open(folder / name, "wb") as file:
            soundfile.write(file, samples, rate, **{"format": "WAV", **how})

    def distinct(seed):
        return note(440, 1.6, 16_000, seed=seed)

    audio("good.flac", good, format="FLAC")
    fates = {"good.flac": None, "empty.wav": "empty", "text.wav": "undecodable", "header.wav": "undecodable"}
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not audio at all, really\n" * 50)
    (folder / "header.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVE")
    (folder / "cut.flac").write_bytes((folder / "good.flac").read_bytes()[:9000])
    audio("cut.wav", good)
    os.truncate(folder / "cut.wav", 30_000)
    audio("nan.wav", np.where(np.arange(len(good)) == 20_000, np.nan, good), subtype="FLOAT")
    audio("silence.wav", np.zeros(32_000))
    audio("one.wav", good[:1])
    audio("short.wav", good[:3000])
    audio("none.wav", good[:0])
    fates |= {"cut.flac": "damaged", "cut.wav": "truncated", "nan.wav": "not_finite", "silence.wav": "silent"}
    fates |= {"one.wav": "too_short", "short.wav": "too_short", "none.wav": "empty"}
    audio("fast.wav", note(440, 1.6, 192_000), 192_000)
    audio("eight.wav", np.stack([distinct(seed) for seed in range(8)], axis=1))
    audio("opposite.wav", np.stack([distinct(8), -distinct(8)], axis=1))
    audio("ünï 🎹 \n name.wav", distinct(9))
    audio(os.fsdecode(b"not-utf8-\xff.wav"), distinct(10))
    audio(f"{'x' * 251}.wav", distinct(11))
    audio("audio.txt", distinct(12), subtype="PCM_24")
    for name in ("fast.wav", "eight.wav", "opposite.wav", "ünï 🎹 \n name.wav", f"{'x' * 251}.wav", "audio.txt"):
        fates[name] = None
    fates[os.fsdecode(b"not-utf8-\xff.wav")] = None
    shutil.copy(folder / "good.flac", folder / "zz copy.flac")
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    os.symlink(folder, folder / "loop")
    os.symlink(folder / "nowhere", folder / "broken.wav")
    fates |= {"zz copy.flac": "duplicate", "folder.wav": "not_a_file", "pipe.wav": "not_a_file"}
    fates |= {"broken.wav": "unreadable"}
    if os.geteuid() != 0:
        audio("closed.wav", distinct(13))
        (folder / "closed.wav").chmod(0)
        fates["closed.wav"] = "unreadable"
    return fates


def test_odd_files_are_used_or_reported_and_the_good_ones_go_on(tmp_path):
    fates = odd_files(tmp_path / "Odd")
    run_here(config_for(tmp_path / "Odd", tmp_path / "out", max_skipped=0.9))
    assert {row.path: row.code for row in load_skipped(tmp_path / "out")} == {
        name: code for name, code in fates.items() if code
    }
    tracks = {track.path: track for track in load_tracks(tmp_path / "out")}
    assert set(tracks) == {name for name, code in fates.items() if code is None}
    assert {track.windows for track in tracks.values()} == {3}
    assert verify(tmp_path / "out") == []
    assert all("\n" not in row.message and row.path in row.message for row in load_skipped(tmp_path / "out"))


def test_windows_and_silence_are_counted(tmp_path):
    sound, silence = note(440, 1.0, 16_000), np.zeros(16_000)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "gap.wav", np.concatenate([sound, silence, sound[:4000]]), 16_000)
    run_here(config_for(tmp_path / "in", tmp_path / "out", hop_s=0.25, semitones=(0,), chords=()))
    (track,) = load_tracks(tmp_path / "out")
    starts = [example.start_s for example in examples(tmp_path / "out")]
    assert starts == [0.0, 0.25, 0.5, 0.75, 1.75]
    assert (track.windows, track.silent, track.seconds) == (5, 3, 2.25)
    assert probe(tmp_path / "in" / "gap.wav").seconds == 2.25


def test_again_does_nothing_and_other_settings_are_not_mixed_in(job_corpus, tmp_path, capsys):
    source = shutil.copytree(job_corpus, tmp_path / "in")
    output = tmp_path / "out"
    first = run_here(config_for(source, output))
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    again = preprocess(config_for(source, output))
    assert "nothing to do" in capsys.readouterr().err
    assert again.fingerprint == first.fingerprint
    assert before == {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.name != ".lock"}
    with pytest.raises(TfpipeError, match=r"other settings \(semitones\); use --overwrite"):
        preprocess(config_for(source, output, semitones=(0,)), quiet=True)
    assert verify(output) == []

    (source / "Piano" / "0.wav").unlink()
    changed = preprocess(config_for(source, output), quiet=True)
    assert changed.fingerprint != first.fingerprint
    assert verify(output) == []
    assert len(load_tracks(output)) == 11


def test_failing_job_leaves_the_old_dataset_whole(job_corpus, tmp_path):
    source = shutil.copytree(job_corpus, tmp_path / "in")
    output = tmp_path / "out"
    first = run_here(config_for(source, output))
    for path in source.rglob("*.wav"):
        path.write_text("gone")
    with pytest.raises(TfpipeError, match=r"12 of 12 audio files cannot be used: 12 undecodable; the first is .*0.wav"):
        run_here(config_for(source, output))
    assert load_manifest(output).fingerprint == first.fingerprint
    assert verify(output) == []


def test_kill_in_the_middle_then_resume(long_corpus, tmp_path, capsys):
    marker, output = uuid.uuid4().hex, tmp_path / "out"
    process = start_job(long_corpus, output, marker)
    finished = wait_for(lambda: list(output.glob(".work/*/*.tfrecord.json")))[0].with_suffix("")
    kept = finished.stat()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not descendants(marker), seconds=5)
    with pytest.raises(TfpipeError, match="no complete dataset"):
        load_manifest(output)

    (finished.parent / "half.tfrecord.tmp-1").write_bytes(b"half")
    resumed = preprocess(config_for(long_corpus, output))
    said = re.search(r"\((\d+) decoded now.* (\d+) examples \((\d+) computed now\)", capsys.readouterr().err)
    decoded, total, computed = map(int, said.groups())
    assert decoded == 0
    assert computed < total == sum(shard.examples for shard in resumed.shards)
    assert kept.st_ino in {path.stat().st_ino for path in output.glob("*.tfrecord")}
    assert verify(output) == []
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".tfrecord") == [
        ".lock",
        ".scans.jsonl",
        "dataset.json",
        "skipped.jsonl",
        "tracks.jsonl",
    ]
    clean = run_here(config_for(long_corpus, tmp_path / "clean"))
    assert resumed.fingerprint == clean.fingerprint


def test_a_damaged_leftover_is_not_taken_over(job_corpus, job_dataset, tmp_path, monkeypatch):
    from beam_jobs import pipeline

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_publish", lambda job: None)
        with pytest.raises(TfpipeError, match="no complete dataset"):
            run_here(config_for(job_corpus, tmp_path / "out"))
    leftovers = sorted((tmp_path / "out" / ".work").glob("*/*.tfrecord"))
    data = bytearray(leftovers[0].read_bytes())
    data[100] ^= 1
    leftovers[0].write_bytes(data)
    run_here(config_for(job_corpus, tmp_path / "out"))
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)


def test_interrupt_ends_everything_at_once(long_corpus, tmp_path):
    marker, output = uuid.uuid4().hex, tmp_path / "out"
    process = start_job(long_corpus, output, marker, engine="waveform")
    wait_for(lambda: list(output.glob(".work/*/*.tmp-*")))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    assert time.monotonic() - began < 10  # about one on an idle machine; the work left would take longer
    wait_for(lambda: not descendants(marker), seconds=3)
    assert process.returncode != 0
    assert not (output / "dataset.json").exists()


def test_a_worker_that_dies_ends_the_job_with_its_cause(long_corpus, tmp_path):
    marker, output = uuid.uuid4().hex, tmp_path / "out"
    process = start_job(long_corpus, output, marker, engine="waveform", workers=2)
    wait_for(lambda: list(output.glob(".work/*/*.tmp-*")))
    workers = [number for number, line in descendants(marker).items() if "sdk_worker_main" in line]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"a worker process died (killed, probably for lack of memory)" in stderr.splitlines()[-1]
    wait_for(lambda: not descendants(marker), seconds=3)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs a small file system of its own")
def test_full_disk_says_so_and_the_job_goes_on_where_it_was(job_corpus, job_dataset, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        with pytest.raises(
            TfpipeError, match=r"small/out.*: disk full; free some space and run the same command again"
        ):
            preprocess(config_for(job_corpus, small / "out"), quiet=True)
        assert not (small / "out" / "dataset.json").exists()
        done = [path.with_suffix("") for path in (small / "out" / ".work").glob("*/*.tfrecord.json")]
        assert done
        kept = {path.stat().st_ino for path in done}
        subprocess.run(["mount", "-o", "remount,size=20m", small], check=True)
        run_here(config_for(job_corpus, small / "out"))
        assert kept <= {path.stat().st_ino for path in (small / "out").glob("*.tfrecord")}
        assert shard_bytes(small / "out") == shard_bytes(job_dataset)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_source_that_changes_under_the_job_is_refused(job_corpus, tmp_path):
    from beam_jobs.plan import make_plan
    from beam_jobs.scan import scan_track
    from beam_jobs.shards import write_shard

    source = shutil.copytree(job_corpus, tmp_path / "in")
    config = config_for(source, tmp_path / "out")
    plan = make_plan([scan_track(file, config) for file in discover(config.inputs).files], skipped=(), config=config)
    victim = plan.shards[0].tracks[0].path
    soundfile.write(victim, note(500, 3, 16_000), 16_000)
    with pytest.raises(TfpipeError, match="changed while the job was reading it"):
        write_shard(plan.shards[0], config=config, folder=str(tmp_path / "w"))
    assert list((tmp_path / "w").iterdir()) == []


def test_two_jobs_do_not_share_a_folder(job_corpus, tmp_path):
    from tfpipe.files.storage import folder_lock

    with folder_lock(tmp_path / "out", what="preprocessing job"), pytest.raises(TfpipeError, match="working here"):
        preprocess(config_for(job_corpus, tmp_path / "out"), quiet=True)


def test_verify_finds_every_kind_of_damage(job_dataset, tmp_path):
    def damaged(name):
        return shutil.copytree(job_dataset, tmp_path / name)

    flipped = damaged("flipped")
    path = next(flipped.glob("train-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    missing, extra = damaged("missing"), damaged("extra")
    next(missing.glob("test-*")).unlink()
    shutil.copy(next(extra.glob("test-*")), extra / "test-00009-of-00010.tfrecord")
    for folder, sentence in ((flipped, "damaged record"), (missing, "missing shard"), (extra, "extra shard")):
        (problem,) = verify(folder)
        assert sentence in problem


def test_manifest_records_how_it_was_made(job_dataset, job_corpus):
    content = json.loads((job_dataset / "dataset.json").read_text())
    assert content["config"]["semitones"] == [0, 4, 7, 8, 12]
    assert content["config"]["inputs"] == [str(job_corpus)]
    assert {"librosa", "numpy", "soxr", "apache-beam", "tfpipe"} <= set(content["versions"])
    assert SMALL.fingerprint == content["spec_fingerprint"]
