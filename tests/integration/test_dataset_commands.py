"""The dataset commands, called through `main` as the command line does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from job_tools import note, shard_bytes, spec_options

from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest, load_tracks, read_examples
from tfpipe.data.statistics import inspect


def test_preprocess_makes_the_dataset_and_prints_its_summary(job_corpus, job_dataset, in_process, tmp_path, capsys):
    shaped = ["--semitones", "0,4,7,8,12", "--chords", "major", "--shard-mib", "0.0625", *spec_options()]
    assert main(["preprocess", str(job_corpus), "--output", str(tmp_path / "out"), "--json", *shaped]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary == inspect(job_dataset)
    assert shard_bytes(tmp_path / "out") == shard_bytes(job_dataset)


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("--chords=blues", 2, "unknown chord 'blues'"),
        ("--engine=magic", 2, "invalid choice: 'magic'"),
        ("--semitones=-30", 1, "--engine waveform"),
        ("--stretch=9", 2, "0.25 to 4"),
        ("--gains=3", 2, "could clip"),
        ("--also=echo", 2, "unknown variant 'echo'"),
        ("--semitones=a", 2, "not a list of numbers"),
        ("--n-fft=7", 2, "n_fft"),
    ],
)
def test_bad_options_get_one_line_before_any_work(option, code, words, job_corpus, tmp_path, capsys):
    assert main(["preprocess", str(job_corpus), f"--output={tmp_path / 'out'}", option]) == code
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_verify_accepts_a_complete_dataset_and_names_a_missing_shard(job_dataset, tmp_path, capsys):
    assert main(["verify", str(job_dataset)]) == 0
    assert load_manifest(job_dataset).fingerprint in capsys.readouterr().out
    copy = shutil.copytree(job_dataset, tmp_path / "copy")
    for path in copy.glob("test-*"):
        path.unlink()
    assert main(["verify", "--json", str(copy)]) == 1
    captured = capsys.readouterr()
    [line] = captured.out.splitlines()
    told = json.loads(line)
    assert len(told["problems"]) == len(list(job_dataset.glob("test-*")))
    assert (told["ok"], told["code"]) == (False, 1)
    assert told["error"] in captured.err
    assert "missing shard" in captured.err.splitlines()[-1]
    assert main(["verify", str(tmp_path)]) == 1


def test_inspect_prints_counts_and_levels(job_dataset, capsys):
    assert main(["inspect", str(job_dataset)]) == 0
    table = capsys.readouterr().out
    for words in ("12 (26.4 s)", "48 of 0.5 s", "Human 24, Piano 24 windows", "shift+12", "skipped       nothing"):
        assert words in table
    assert main(["inspect", "--json", str(job_dataset)]) == 0
    summary = json.loads(capsys.readouterr().out)
    levels = summary.pop("levels")
    assert summary == inspect(job_dataset)
    assert main(["inspect", "--json", "--counts", str(job_dataset)]) == 0
    assert json.loads(capsys.readouterr().out) == summary
    manifest = load_manifest(job_dataset)
    for split, labels in levels.items():
        rows = [example for shard, example in read_examples(job_dataset, manifest) if shard.split == split]
        assert sum(label["examples"] for label in labels.values()) == len(rows) == manifest.examples(split)
        assert min(label["ref_db"]["min"] for label in labels.values()) == pytest.approx(
            min(row.ref_db for row in rows), abs=1e-3
        )
        mean = sum(label["mel_mean"] * label["examples"] for label in labels.values()) / len(rows)
        assert mean == pytest.approx(np.mean([row.mel for row in rows]) / 255, abs=1e-3)
        # The Human notes are about an octave below the Piano notes and have as many harmonics.
        assert 100 < labels["Human"]["centroid_hz"] < labels["Piano"]["centroid_hz"] < 8_000
        assert 0 <= labels["Human"]["floor_share"] < 0.5


@pytest.mark.slow
def test_inspect_draws_a_sheet_of_labels_and_variants(job_dataset, tmp_path, capsys):
    from matplotlib.image import imread

    assert main(["inspect", "--json", "--plots", str(tmp_path / "out"), str(job_dataset)]) == 0
    path = json.loads(capsys.readouterr().out)["plots"]
    assert path == str(tmp_path / "out" / "contact-sheet.png")
    pixels = imread(path)
    assert pixels.shape[1] > 2 * pixels.shape[0]  # 6 variants across, 2 labels down
    assert pixels.std() > 0.1
    assert main(["inspect", "--counts", "--plots", str(tmp_path), str(job_dataset)]) == 2


def levels_at(path, *frequencies):
    """Returns the level of the loudest partial within 2 % of each frequency, relative to the loudest of all."""
    audio, rate = soundfile.read(path)
    assert 0.05 < np.abs(audio).max() <= 1
    spectrum, hz = np.abs(np.fft.rfft(audio)), np.fft.rfftfreq(len(audio), 1 / rate)
    return [spectrum[np.abs(hz / frequency - 1) < 0.02].max() / spectrum.max() for frequency in frequencies]


def test_augment_writes_sounds_and_a_picture(tmp_path, capsys):
    soundfile.write(tmp_path / "tone.wav", np.stack([note(220, 3, 44_100)] * 2, axis=1), 44_100)
    options = ["--semitones", "12", "--chord", "fifth", "--out", str(tmp_path / "out"), "--json"]
    assert main(["augment", str(tmp_path / "tone.wav"), *options]) == 0
    shifted, stacked, picture = json.loads(capsys.readouterr().out)["files"]
    assert levels_at(shifted, 440)[0] == 1
    assert levels_at(shifted, 220)[0] < 0.1
    assert min(levels_at(stacked, 220, 329.6)) > 0.5
    assert soundfile.info(shifted).samplerate == 22_050
    assert soundfile.info(shifted).duration == pytest.approx(3, abs=0.001)

    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[1] > 2 * pixels.shape[0] > 200
    assert pixels.std() > 0.1


def test_augment_refuses_silent_short_and_missing_files(tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(44_100), 22_050)
    soundfile.write(tmp_path / "short.wav", np.ones(100), 22_050)
    for name, words in (("silence.wav", "is silent"), ("short.wav", "too short"), ("gone.wav", "no such file")):
        assert main(["augment", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_list_gives_the_labels_and_groups_stay_in_one_split(job_corpus, in_process, tmp_path, capsys):
    names = sorted(path.relative_to(job_corpus) for path in job_corpus.rglob("*.wav"))
    lines = [f"{job_corpus / name},{'low' if index % 2 else 'high'}" for index, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, "gone.wav,low", ""]))
    base = ["preprocess", str(tmp_path / "list.csv"), f"--output={tmp_path / 'out'}", "--json", *spec_options()]
    assert main(base) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(summary["labels"]) == {"high", "low"}
    assert summary["skipped"]["by_reason"] == {"missing": 1}
    groups = [f"{job_corpus / name},player{index // 4}" for index, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(["path,group", *groups, ""]))
    assert main([*base, f"--groups={tmp_path / 'groups.csv'}"]) == 0
    split_of = {Path(track.path).parts[-2:]: track.split for track in load_tracks(tmp_path / "out")}
    for first in range(0, 12, 4):
        assert len({split_of[name.parts] for name in names[first : first + 4]}) == 1
    assert {"train", "validation"} <= set(split_of.values())
    capsys.readouterr()
    assert main([*base, f"--groups={tmp_path / 'groups.csv'}"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    (tmp_path / "list.csv").write_text("path;label\n")
    assert main(base) == 1
    assert "list.csv:1: no column 'path'" in capsys.readouterr().err.splitlines()[-1]
