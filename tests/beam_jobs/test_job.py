"""The job as a whole: what it keeps, what it reports, and when it does nothing."""

import json
import os
import shutil

import librosa
import numpy as np
import pytest
import soundfile
from job_tools import SMALL, config_for, note, run_here, run_without_beam

from beam_jobs.corpus import discover
from beam_jobs.job import preprocess
from tfpipe.audio.reader import probe
from tfpipe.data.manifest import load_manifest, load_skipped, load_tracks
from tfpipe.data.records import decode_example, read_records
from tfpipe.data.verify import verify
from tfpipe.errors import TfpipeError
from tfpipe.files.storage import folder_lock
from tfpipe.spec import FeatureSpec


def examples(folder, split="*"):
    manifest = load_manifest(folder)
    for path in sorted(folder.glob(f"{split}-*.tfrecord")):
        for data in read_records(path):
            yield decode_example(data, manifest.spec.mel_shape)


def test_the_dataset_is_complete_and_its_counts_agree(job_dataset):
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


def test_originals_have_the_codes_of_the_notebook(clips, tmp_path):
    """Compares every stored original with what librosa gives, called as in the notebook (In [8])."""
    spec = FeatureSpec()
    inputs = [clips[0], clips[-1]]
    run_without_beam(config_for(inputs, tmp_path / "out", spec=spec, semitones=(0, 4)))
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


def odd_files(folder):
    """Writes usable and unusable files; returns the reason code of each by name, None for a usable file."""
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


def test_each_odd_file_is_used_or_reported(tmp_path):
    fates = odd_files(tmp_path / "Odd")
    run_without_beam(config_for(tmp_path / "Odd", tmp_path / "out", max_skipped=0.9))
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
    run_without_beam(config_for(tmp_path / "in", tmp_path / "out", hop_s=0.25, semitones=(0,), chords=()))
    (track,) = load_tracks(tmp_path / "out")
    starts = [example.start_s for example in examples(tmp_path / "out")]
    assert starts == [0.0, 0.25, 0.5, 0.75, 1.75]
    assert (track.windows, track.silent, track.seconds) == (5, 3, 2.25)
    assert probe(tmp_path / "in" / "gap.wav").seconds == 2.25


def test_a_second_run_does_nothing_and_other_settings_are_refused(made, in_process, capsys):
    source, output = made
    first = load_manifest(output)
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


def test_a_failing_job_leaves_the_old_dataset_complete(made):
    source, output = made
    first = load_manifest(output)
    for path in source.rglob("*.wav"):
        path.write_text("gone")
    with pytest.raises(TfpipeError, match=r"12 of 12 audio files cannot be used: 12 undecodable; the first is .*0.wav"):
        run_here(config_for(source, output))
    assert load_manifest(output).fingerprint == first.fingerprint
    assert verify(output) == []


def test_two_jobs_do_not_share_a_folder(job_corpus, tmp_path):
    with folder_lock(tmp_path / "out", what="preprocessing job"), pytest.raises(TfpipeError, match="working here"):
        preprocess(config_for(job_corpus, tmp_path / "out"), quiet=True)


def test_manifest_records_how_it_was_made(job_dataset, job_corpus):
    content = json.loads((job_dataset / "dataset.json").read_text())
    assert content["config"]["semitones"] == [0, 4, 7, 8, 12]
    assert content["config"]["inputs"] == [str(job_corpus)]
    assert {"librosa", "numpy", "soxr", "apache-beam", "tfpipe"} <= set(content["versions"])
    assert SMALL.fingerprint == content["spec_fingerprint"]
