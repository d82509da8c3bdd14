"""`tfpipe run` from recordings to a served model: what it makes, a second run, kills in every stage, a full disk."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import environment
from run_fixtures import QUICK_SETTINGS

from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest
from tfpipe.data.verify import verify
from tfpipe.training.prior_folder import PRIOR
from tfpipe.workflow.chain import Chain

STAGES = ["preprocess", "verify", "train", "evaluate", "export", "serve check", "report"]
# The same settings as those of the fixture `finished_run`.
QUICK = ("--preset", "tiny", "--epochs", "2", "--prior-steps", "20", "--semitones", "0,7", "--chords", "")
# The same dataset and autoencoder in two thirds of the time.
QUICKEST = (*QUICK, "--prior", "none")
Run = tuple[Path, dict[str, Any]]


def run(corpus: Path, workdir: Path, *more: object) -> dict[str, Any]:
    """Runs the command in this process, which has imported TensorFlow already, and returns its report."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(["run", str(corpus), "--workdir", str(workdir), *QUICK, *map(str, more), "--json"])
    assert status == 0
    report: dict[str, Any] = json.loads(output.getvalue().splitlines()[-1])
    return report


@pytest.mark.slow
def test_the_dataset_is_that_of_tfpipe_preprocess(finished_run: Run, few_recordings: Path, tmp_path: Path) -> None:
    workdir, report = finished_run
    assert main(["preprocess", str(few_recordings), "--output", str(tmp_path), *QUICK[6:]]) == 0
    assert report["preprocess"]["fingerprint"] == load_manifest(tmp_path).fingerprint
    assert report["train"]["epochs"] == 2
    assert report["changed"] == STAGES
    assert set(report["seconds"]) == set(STAGES)
    assert report["seconds"]["train"] > 0
    assert list(json.loads((workdir / "stages.json").read_text())) == sorted(STAGES)
    assert json.loads((workdir / "report.json").read_text()) == report


@pytest.mark.slow
def test_report_has_all_that_scripts_rely_on(finished_run: Run) -> None:
    workdir, report = finished_run
    assert set(report["preprocess"]) >= {"examples", "tracks", "splits", "variants", "skipped", "fingerprint"}
    judged = report["evaluate"]
    assert set(judged) >= {"split", "windows", "mse", "kl", "active_units", "latent", "baselines"}
    assert judged["split"] == "validation"  # of three tracks one is held out
    assert 0.0 < judged["mse"] < judged["baselines"]["mean"]["mse"]
    assert (Path(report["export"]["path"]) / "saved_model.pb").exists()
    assert report["serve"].split(" --model_base_path ")[0].endswith("tfpipe serve")
    for picture in ("reconstructions.png", "samples.png"):
        assert (workdir / "figures" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_served_answers_are_sound(finished_run: Run) -> None:
    check = finished_run[1]["serve_check"]
    assert {Path(name).parent.name for name in check["sounds"]} == {"", "decoded", "reconstructed", "generated"}
    assert len(check["pictures"]) == 3
    for name in check["sounds"]:
        audio, rate = soundfile.read(Path(check["folder"]) / name)
        assert rate == 22_050
        assert len(audio) == 110_250
        assert np.isfinite(audio).all()
        assert 1e-3 < np.sqrt(np.mean(np.square(audio))) < 0.7
        if name != "held_out.wav":  # the recording, which the server did not make
            assert 40.0 < check["sounds"][name]["loudest_hz"] < 8000.0


@pytest.mark.slow
def test_a_second_run_says_that_all_is_up_to_date_and_changes_nothing(
    finished_run: Run, few_recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, report = finished_run

    def files() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in workdir.rglob("*")
            if path.is_file() and path.name not in (".lock", "report.json")
        }

    before = files()
    arguments = ["run", str(few_recordings), "--workdir", str(workdir), *QUICK]
    assert main([*arguments, "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["changed"] == []
    assert again["seconds"] == {}
    assert {**again, **dict.fromkeys(("changed", "seconds"))} == {**report, **dict.fromkeys(("changed", "seconds"))}
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "nothing was changed" in said.out
    assert f"Serve it:\n  {report['serve']}" in said.out
    assert files() == before


def test_bad_input_gets_one_line_with_what_where_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(corpus: Path, workdir: Path, *options: str, code: int = 1) -> str:
        assert main(["run", str(corpus), "--workdir", str(workdir), *options]) == code
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("tfpipe: ")
        return line

    assert "no such file or folder; check the path" in refused(tmp_path / "none", tmp_path / "w1")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("hello")
    assert "no audio files" in refused(empty, tmp_path / "w2")
    (tmp_path / "file").write_text("")
    assert "part of the path is a file" in refused(empty, tmp_path / "file" / "w")
    assert "latent=0" in refused(empty, tmp_path / "w3", "--latent", "0", code=2)
    assert "fmax" in refused(empty, tmp_path / "w4", "--fmax", "20000", code=2)
    assert main(["run", str(empty), "--workdir", str(tmp_path / "w5"), "--preset", "huge"]) == 2
    assert "huge" in capsys.readouterr().err
    assert main(["run"]) == 2


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(few_recordings: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpipe", "run", str(few_recordings), "--workdir", str(tmp_path / "work"), *QUICK],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    message = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "run the same command again" in message
    assert "Traceback" not in message


def kill_in_stage(corpus: Path, workdir: Path, stage: int) -> None:
    """Runs until a stage has begun, gives it a moment, and kills it without warning."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpipe", "run", str(corpus), "--workdir", str(workdir), *QUICKEST],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(rf"\[{stage}/7\] .* \.\.\.$", line):
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


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_as_if_nothing_had_happened(
    finished_run: Run, few_recordings: Path, tmp_path: Path
) -> None:
    workdir, undisturbed = tmp_path / "work", finished_run[1]
    for stage in range(1, 8):
        kill_in_stage(few_recordings, workdir, stage)
        state = workdir / "stages.json"
        done = list(json.loads(state.read_text())) if state.exists() else []
        assert len(done) >= stage - 1
        assert not (workdir / "report.json").exists()
    report = run(few_recordings, workdir, "--prior", "none")
    assert report["preprocess"] == undisturbed["preprocess"]
    assert report["train"]["weights"] == undisturbed["train"]["weights"]
    assert list(json.loads((workdir / "stages.json").read_text())) == sorted(STAGES)
    assert verify(workdir / "data") == []


@pytest.mark.slow
def test_settings_of_training_leave_the_dataset_alone(finished_run: Run, few_recordings: Path) -> None:
    workdir, report = finished_run
    before, after = (
        {
            stage.name: stage.inputs(report)
            for stage in Chain.of(few_recordings, workdir, **settings).stages()
            if stage.inputs
        }
        for settings in (QUICK_SETTINGS, {**QUICK_SETTINGS, "epochs": 3})
    )
    # The later stages depend on what the training makes, as tests/tfpipe/workflow/test_stages.py shows.
    assert [name for name in before if before[name] != after[name]] == ["train"]


@pytest.mark.slow
def test_changed_settings_and_input_rebuild_what_depends_on_them_and_one_track_gives_a_model(
    finished_run: Run, few_recordings: Path, tmp_path: Path
) -> None:
    workdir = shutil.copytree(finished_run[0], tmp_path / "work")
    corpus = tmp_path / "only one" / "Läbel"
    corpus.mkdir(parents=True)
    shutil.copy(next(few_recordings.rglob("*.wav")), corpus / "a b.wav")
    (corpus / "broken.wav").write_bytes(b"RIFF not really a wav")
    report = run(tmp_path / "only one", workdir, "--epochs", "1", "--prior", "none")
    assert report["changed"] == STAGES
    assert report["preprocess"]["tracks"] == 1
    assert report["preprocess"]["skipped"] == {"total": 1, "by_reason": {"undecodable": 1}}
    assert report["train"]["epochs"] == 1
    assert report["evaluate"]["split"] == "train"
    assert report["export"]["version"] == finished_run[1]["export"]["version"] + 1
    assert (workdir / "previous" / "run" / "DONE").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk_is_said_and_the_run_goes_on_once_there_is_room(
    finished_run: Run, few_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    data, trained, prior, figures = (
        sum(path.stat().st_size for path in (finished_run[0] / name).rglob("*"))
        for name in ("data", "run", f"run/{PRIOR}", "figures")
    )
    # First there is room for the dataset but not for a checkpoint, then for a run but not for the exported model.
    sizes = [f"size={(data >> 10) + 300}k", f"size={(data + 2 * (trained - prior) + figures >> 10) + 500}k"]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", sizes[0], "tmpfs", str(mount)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for size, stage in zip(sizes, ("train", "export"), strict=True):
            subprocess.run(["mount", "-o", f"remount,{size}", str(mount)], check=True)
            assert main(["run", str(few_recordings), "--workdir", str(mount / "w"), *QUICKEST]) == 1
            assert "disk full; free some space" in capsys.readouterr().err.strip().splitlines()[-1]
            assert stage not in json.loads((mount / "w" / "stages.json").read_text())
        assert verify(mount / "w" / "data") == []
        subprocess.run(["mount", "-o", "remount,size=200m", str(mount)], check=True)
        report = run(few_recordings, mount / "w", "--prior", "none")
        assert "verify" not in report["changed"]
        assert report["train"]["epochs"] == 2
    finally:
        subprocess.run(["umount", str(mount)], check=True)
