"""The settings of the runs that tests train, as a config and as options of the command."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig

# With an average and with augmentation, so that the tests of exact continuation cover both. An epoch has five steps.
# Training and validation have no smaller last batch, for which TensorFlow would trace each step a second time.
SETTINGS: dict[str, Any] = {
    **{"preset": "tiny", "latent": 4, "epochs": 3, "batch_size": 12, "precision": "float32", "seed": 1},
    **{"average": 0.9, "keep_every": 2},
}
AUGMENT: dict[str, Any] = {"freq_mask": 4, "time_mask": 4, "roll_s": 0.1, "gain_db": 2.0}


def train_config(data: Path, run: Path, **settings: Any) -> TrainConfig:
    """Returns a config with the settings above, where `settings` does not say otherwise."""
    values = {**SETTINGS, "augment": AugmentConfig(**AUGMENT), **settings}
    return TrainConfig(data=str(data), run=str(run), **values)


def train_command(data: Path, run: Path, **settings: Any) -> list[str]:
    """Returns the command that trains with `train_config(data, run, **settings)` in a process of its own."""
    values = {"data": data, "run": run, **SETTINGS, **AUGMENT, **settings}
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "tfpipe", "train", *options]


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
