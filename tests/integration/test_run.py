"""`tfpipe run` as a person uses it: the whole chain, killed in every stage, changed, and given bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import environment, last_json
from helpers import tfpipe as command

import tfpipe as tp
from tfpipe.cli.main import main

STAGES = ["preprocess", "verify", "train", "evaluate", "export", "serve check"]
QUICK = ("--preset", "tiny", "--epochs", "2", "--semitones", "0,7", "--chords", "")


def run(corpus: Path, workdir: Path, *more: object) -> dict:
    return last_json(command("run", corpus, "--workdir", workdir, *QUICK, *more, "--json"))


def kill_in_stage(corpus: Path, workdir: Path, stage: int) -> None:
    """Runs until a stage has begun, gives it a moment, and kills it without warning."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpipe", "run", str(corpus), "--workdir", str(workdir), *QUICK],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(rf"\[{stage}/6\] .* \.\.\.$", line):
            break
    time.sleep({1: 1.5, 3: 4.0, 5: 4.0, 6: 4.0}.get(stage, 0.0))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    time.sleep(1.0)
    left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if str(workdir) in commandline(path)]
    assert not left, f"processes {left} outlived the run"


def commandline(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return ""


@pytest.fixture(scope="module")
def finished(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The work folder of a run and its report."""
    workdir = tmp_path_factory.mktemp("run") / "work"
    return workdir, run(small_corpus, workdir)


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_as_if_nothing_had_happened(
    finished: tuple[Path, dict], small_corpus: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    for stage in range(1, 7):
        kill_in_stage(small_corpus, workdir, stage)
        state = workdir / "stages.json"
        done = list(json.loads(state.read_text())) if state.exists() else []
        assert len(done) >= stage - 1
        assert not (workdir / "report.json").exists()
    report, expected = run(small_corpus, workdir), finished[1]
    assert report["preprocess"]["fingerprint"] == expected["preprocess"]["fingerprint"]
    assert report["train"]["epochs"] == 2
    assert report["train"]["weights"] == expected["train"]["weights"]
    assert list(json.loads((workdir / "stages.json").read_text())) == sorted(STAGES)
    assert tp.verify(workdir / "data") == []


def test_report_has_all_that_scripts_rely_on(finished: tuple[Path, dict]) -> None:
    workdir, report = finished
    assert set(report["preprocess"]) >= {"examples", "tracks", "splits", "variants", "skipped", "fingerprint"}
    judged = report["evaluate"]
    assert set(judged) >= {"split", "windows", "mse", "kl", "active_units", "latent", "baselines"}
    assert judged["split"] == "test"
    assert 0.0 < judged["mse"] < judged["baselines"]["mean"]["mse"]
    assert (Path(report["export"]["path"]) / "saved_model.pb").exists()
    assert report["serve"].split(" --model_base_path ")[0].endswith("tfpipe serve")
    for picture in ("reconstructions.png", "samples.png"):
        assert (workdir / "figures" / picture).read_bytes().startswith(b"\x89PNG")


def test_served_answers_are_sound(finished: tuple[Path, dict]) -> None:
    check = finished[1]["serve_check"]
    assert {Path(name).parent.name for name in check["sounds"]} == {"", "decoded", "reconstructed", "generated"}
    assert len(check["pictures"]) == 3
    for name in check["sounds"]:
        audio, rate = soundfile.read(Path(check["folder"]) / name)
        assert rate == 22_050
        assert len(audio) == 110_250
        assert np.isfinite(audio).all()
        assert 1e-3 < np.sqrt(np.mean(np.square(audio))) < 0.7
        assert 40.0 < check["sounds"][name]["loudest_hz"] < 8000.0


def test_again_says_so_and_changes_nothing(
    finished: tuple[Path, dict], small_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, report = finished

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file() and path.name != ".lock"}

    before = {path: stamp for path, stamp in files().items() if path.name != "report.json"}
    again = tp.run(small_corpus, workdir, preset="tiny", epochs=2, semitones=(0, 7), chords=())
    assert again["changed"] == []
    assert {name: again[name] for name in report if name not in ("changed", "serve")} == {
        name: report[name] for name in report if name not in ("changed", "serve")
    }
    assert {path: stamp for path, stamp in files().items() if path.name != "report.json"} == before
    assert main(["run", str(small_corpus), "--workdir", str(workdir), *QUICK]) == 0
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.slow
def test_changed_settings_and_input_rebuild_what_depends_on_them(
    finished: tuple[Path, dict], small_corpus: Path
) -> None:
    workdir, report = finished
    more_epochs = run(small_corpus, workdir, "--epochs", "1")
    assert more_epochs["changed"] == ["train", "evaluate", "export", "serve check"]
    assert more_epochs["preprocess"] == report["preprocess"]
    assert more_epochs["export"]["version"] == report["export"]["version"] + 1
    assert (workdir / "previous" / "run" / "DONE").exists()

    corpus = workdir.parent / "corpus"
    shutil.copytree(small_corpus, corpus)
    next(corpus.rglob("*.wav")).unlink()
    fewer = run(corpus, workdir, "--epochs", "1")
    assert fewer["changed"] == STAGES
    assert fewer["preprocess"]["tracks"] == report["preprocess"]["tracks"] - 1


@pytest.mark.slow
def test_one_track_of_one_label_still_gives_a_model(small_corpus: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "only one" / "Läbel"
    corpus.mkdir(parents=True)
    shutil.copy(next(small_corpus.rglob("*.wav")), corpus / "a b.wav")
    (corpus / "broken.wav").write_bytes(b"RIFF not really a wav")
    report = run(tmp_path / "only one", tmp_path / "work", "--epochs", "1")
    assert report["preprocess"]["tracks"] == 1
    assert report["preprocess"]["skipped"] == {"total": 1, "by_reason": {"undecodable": 1}}
    assert report["evaluate"]["split"] == "train"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that calls a command which must fail with one line, and returns the line."""

    def call(*arguments: object, code: int = 1) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("tfpipe: ")
        return lines[-1]

    return call


def test_bad_input_gets_one_line_with_what_where_and_the_fix(
    refused: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "no such file or folder; check the path" in refused("run", tmp_path / "none", "--workdir", tmp_path / "w1")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("hello")
    assert "no audio files" in refused("run", empty, "--workdir", tmp_path / "w2")
    short = tmp_path / "short"
    short.mkdir()
    soundfile.write(short / "a.wav", 0.1 * np.ones(1000), 22_050)
    assert "shorter than" in refused("run", short, "--workdir", tmp_path / "w3")
    (tmp_path / "file").write_text("")
    assert "part of the path is a file" in refused("run", short, "--workdir", tmp_path / "file" / "w")
    assert main(["run", str(short), "--workdir", str(tmp_path / "w4"), "--preset", "huge"]) == 2
    assert "preset" in capsys.readouterr().err
    assert "latent=0" in refused("run", short, "--workdir", tmp_path / "w5", "--latent", 0, code=2)
    assert "fmax" in refused("run", short, "--workdir", tmp_path / "w6", "--fmax", 20_000, code=2)
    assert main(["run"]) == 2


def test_a_folder_that_is_not_ours_is_left_alone(
    refused: Callable[..., str], small_corpus: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "project" / "check" / "mine.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    assert "would be replaced" in refused("run", small_corpus, "--workdir", tmp_path / "project")
    assert mine.read_bytes() == b"precious"
    assert "work folder's name is empty" in refused("run", small_corpus, "--workdir", "", code=2)
    assert "is an input folder" in refused("run", small_corpus, "--workdir", small_corpus, code=2)


@pytest.mark.slow
def test_second_run_in_the_same_folder_is_refused(
    refused: Callable[..., str], small_corpus: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    first = subprocess.Popen(
        [sys.executable, "-m", "tfpipe", "run", str(small_corpus), "--workdir", str(workdir), *QUICK],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stderr is not None
    first.stderr.readline()
    assert "another tfpipe run" in refused("run", small_corpus, "--workdir", workdir, *QUICK)
    first.send_signal(signal.SIGINT)
    message = first.stderr.read()
    first.stderr.close()
    assert first.wait() == 130
    assert "run the same command again" in message
    assert "Traceback" not in message


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk_is_said_and_the_run_goes_on_once_there_is_room(
    refused: Callable[..., str], small_corpus: Path, tmp_path: Path
) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(mount)], check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        # Room for the dataset, none for a checkpoint.
        assert "disk full; free some space" in refused("run", small_corpus, "--workdir", mount / "w", *QUICK)
        assert tp.verify(mount / "w" / "data") == []
        subprocess.run(["mount", "-o", "remount,size=200m", str(mount)], check=True)
        report = run(small_corpus, mount / "w")
        assert "verify" not in report["changed"]
        assert report["train"]["epochs"] == 2
    finally:
        subprocess.run(["umount", str(mount)], check=True)
