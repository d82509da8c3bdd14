"""The run folder: its files, a run that is finished, and settings that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_tools import train_config

from tfpipe.errors import RunError
from tfpipe.training.loop import train
from tfpipe.training.run_folder import Run, load_run, read_history
from tfpipe.training.stages import finished


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_run_folder_holds_what_its_module_describes(trained: Run) -> None:
    names = {"config.json", "spec.json", "checkpoints", "metrics.jsonl", "tensorboard", "DONE"}
    assert {path.name for path in trained.path.iterdir()} >= names
    run = load_run(str(trained.path))
    assert run.done
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    # Not the training error: the noise of the latent moves it by more than three epochs lower it.
    assert run.history[-1]["val_loss"] < run.history[0]["val_loss"]
    assert run.best["val_loss"] == min(row["val_loss"] for row in run.history)


def test_training_a_finished_run_changes_nothing(small: Path, trained: Run) -> None:
    before, config = times(trained.path), train_config(small, trained.path)
    assert finished(config) == trained
    assert train(config, quiet=True) == trained
    assert times(trained.path) == before


def test_other_settings_are_refused_with_the_difference(small: Path, trained: Run) -> None:
    with pytest.raises(RunError, match=r"holds a run with other settings \(seed: 1 there, 8 now\)"):
        finished(train_config(small, trained.path, seed=8))


def test_folder_without_a_run_is_refused_with_the_command_that_makes_one(small: Path, tmp_path: Path) -> None:
    assert finished(train_config(small, tmp_path / "run")) is None
    with pytest.raises(RunError, match=r"no training run here .* make one with `tfpipe train"):
        load_run(tmp_path)


def test_history_ends_before_a_line_that_is_cut(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_history(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
