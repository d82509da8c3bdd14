"""Training: processes that are killed or stopped, early stopping, mixed precision."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import environment
from training_tools import arrays, same, train_command, train_config

from tfpipe.training import checkpoint
from tfpipe.training.loop import train
from tfpipe.training.run_folder import Run


def test_killed_run_continues_to_the_same_weights(small: Path, trained: Run, tmp_path: Path) -> None:
    run, random_s = tmp_path / "run", random.Random(os.getpid()).uniform(0.0, 0.2)
    process = subprocess.Popen(
        train_command(small, run), env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not list(run.glob("checkpoints/step-*")):
        time.sleep(0.01)
    time.sleep(random_s)
    process.kill()
    process.wait()
    continued = train(train_config(small, run), quiet=True)
    assert same(arrays(trained.path), arrays(run))
    names = ("epoch", "step", "loss", "mse", "kl", "val_loss")
    assert [[row[name] for name in names] for row in continued.history] == [
        [row[name] for name in names] for row in trained.history
    ]


def test_sigterm_saves_inside_the_epoch_and_the_run_continues_to_the_same_weights(
    small: Path, trained: Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        train_command(small, run), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        while line and not line.startswith("train: 60 examples"):
            line = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert "stopping after this step, saving" in said
    assert not (run / "DONE").exists()
    saved = checkpoint.load(run / "checkpoints")
    assert saved is not None
    assert saved.state["next_epoch"] == 0
    assert 0 < saved.state["next_step"] < 6
    train(train_config(small, run), quiet=True)
    assert same(arrays(trained.path), arrays(run))


def test_run_stops_early_and_is_not_trained_further_if_it_was_killed_right_then(small: Path, tmp_path: Path) -> None:
    config = train_config(small, tmp_path / "run", epochs=40, patience=1, learning_rate=0.02)
    epochs = len(train(config, quiet=True).history)
    assert epochs < 40
    (tmp_path / "run" / "DONE").unlink()
    assert len(train(config, quiet=True).history) == epochs


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_trains_as_float32_does(small: Path, trained: Run, tmp_path: Path, precision: str) -> None:
    run = train(train_config(small, tmp_path / "run", precision=precision), quiet=True)
    np.testing.assert_allclose([row["mse"] for row in run.history], [row["mse"] for row in trained.history], rtol=0.02)
    dtypes = {array.dtype for name, array in arrays(run.path).items() if name.startswith("decoder")}
    assert dtypes == {np.dtype("float32")}
