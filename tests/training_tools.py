"""The settings of the runs that tests train, as a config and as options of the command."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from helpers import ROOT, environment
from numpy.typing import NDArray

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig
from tfpipe.training.run_folder import Run, load_run

# With an average and with augmentation, so that the tests of exact continuation cover both. An epoch has five steps.
# Training and validation have no smaller last batch, for which TensorFlow would trace each step a second time.
SETTINGS: dict[str, Any] = {
    **{"preset": "tiny", "latent": 4, "epochs": 3, "batch_size": 12, "precision": "float32", "seed": 1},
    **{"average": 0.9, "keep_every": 2},
}
AUGMENT: dict[str, Any] = {"freq_mask": 4, "time_mask": 4, "roll_s": 0.1, "gain_db": 2.0}
# The rounding of sums depends on the number of threads, so all workers get the same number.
THREADS = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
# A latent along time, so that there is a prior to train.
WITH_PRIOR: dict[str, object] = {"latent": "2x4", "prior_steps": 20}


def train_config(data: Path, run: Path, **settings: Any) -> TrainConfig:
    """Returns a config with the settings above, where `settings` does not say otherwise."""
    values = {**SETTINGS, "augment": AugmentConfig(**AUGMENT), **settings}
    return TrainConfig(data=str(data), run=str(run), **values)


def train_command(data: Path, run: Path, **settings: Any) -> list[str]:
    """Returns the command that trains with `train_config(data, run, **settings)` in a process of its own."""
    values = {"data": data, "run": run, **SETTINGS, **AUGMENT, **settings}
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "tfpipe", "train", *options]


def train_together(data: Path, run: Path, **settings: object) -> Run:
    """Trains with two worker processes on this machine, each with one thread."""
    launcher = [sys.executable, str(ROOT / "scripts" / "launch_local"), "2", "--"]
    command = [*launcher, *train_command(data, run, **settings)]
    done = subprocess.run(command, env=environment(**THREADS), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "2 replica(s)" in done.stderr
    return load_run(run)


def arrays(run: Path, which: str = checkpoint.LATEST) -> dict[str, NDArray[Any]]:
    """Returns the arrays of a checkpoint by name."""
    saved = checkpoint.load(run / "checkpoints", which)
    assert saved is not None
    return saved.arrays


def same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> bool:
    """Tells whether two checkpoints are equal, bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class StopsAt(threading.Event):
    """An event that is set from the moment it has been asked `count` times."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0
