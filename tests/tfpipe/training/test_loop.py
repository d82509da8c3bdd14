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


@pytest.mark.slow
def test_a_stopped_and_then_killed_run_continues_to_the_same_weights(small: Path, trained: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # SIGTERM in the first epoch: the process saves and ends.
    with start_training(small, run) as process:
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
    assert 0 < saved.state["next_step"] < 5
    assert f"stopped at epoch 1, step {saved.state['next_step']};" in said

    # kill -9 of the process that goes on, at a random time after it has written a checkpoint of its own.
    with start_training(small, run) as process:
        while process.poll() is None and len(list(run.glob("checkpoints/step-*"))) < 2:
            time.sleep(0.01)
        time.sleep(random.Random(os.getpid()).uniform(0.0, 0.2))
        process.kill()

    continued = train(train_config(small, run), quiet=True)
    weights, expected = arrays(run), arrays(trained.path)
    assert same(weights, expected)
    names = ("epoch", "step", "loss", "mse", "kl", "val_loss")
    rows = [[[row[name] for name in names] for row in history] for history in (continued.history, trained.history)]
    assert rows[0] == rows[1]
    decoder = next(name for name in weights if name.startswith("decoder/"))
    assert not np.array_equal(weights[decoder], weights[f"trained_{decoder}"])  # the average is not the weights


def start_training(data: Path, run: Path) -> subprocess.Popen[str]:
    """Starts a process that trains as `train_config(data, run)` does."""
    return subprocess.Popen(
        train_command(data, run), env=environment(), text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_run_stops_early_and_is_not_trained_further_if_it_was_killed_right_then(small: Path, tmp_path: Path) -> None:
    config = train_config(small, tmp_path / "run", epochs=40, patience=1, learning_rate=0.1, batch_size=30, average=0.0)
    epochs = len(train(config, quiet=True).history)
    assert epochs < 40
    (tmp_path / "run" / "DONE").unlink()
    assert len(train(config, quiet=True).history) == epochs


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_trains_as_float32_does(small: Path, trained: Run, tmp_path: Path, precision: str) -> None:
    run = train(train_config(small, tmp_path / "run", precision=precision), quiet=True)
    np.testing.assert_allclose([row["mse"] for row in run.history], [row["mse"] for row in trained.history], rtol=0.02)
    dtypes = {array.dtype for name, array in arrays(run.path).items() if name.startswith("decoder")}
    assert dtypes == {np.dtype("float32")}
