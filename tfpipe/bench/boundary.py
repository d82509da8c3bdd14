"""The pause between two epochs of training, measured with a step that only waits (needs TensorFlow)."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.bench.compare import Result
from tfpipe.bench.input import repeated
from tfpipe.data.manifest import Manifest
from tfpipe.errors import UsageError
from tfpipe.process.progress import Progress
from tfpipe.training.config import TrainConfig
from tfpipe.training.loop import Trainer
from tfpipe.training.strategy import make_strategy

_STEP_S = 0.002
_BATCH = 16


def measure_boundary(examples: int, *, rounds: int) -> list[Result]:
    """Runs the loop of `tfpipe train` with steps of 2 ms, and measures it inside epochs and between them.

    Input, checkpoints and rows of figures are real; the model is `tiny`, but its step only waits, and there is no
    validation split, because validating takes time of its own.

    Args:
        examples: examples of an epoch, which are noise.
        rounds: number of boundaries; one more at the start is not counted.

    Raises:
        UsageError: there are fewer examples than two batches have.
    """
    if examples < 2 * _BATCH:
        raise UsageError(f"examples={examples} cannot be measured; use at least {2 * _BATCH}")
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as name:
        starts = _starts(Path(name), repeated(None, Path(name), examples), epochs=rounds + 2)
    steps = len(starts) // (rounds + 2)
    gaps = np.diff(starts)
    between = [float(gaps[(number + 1) * steps - 1]) for number in range(1, rounds + 1)]
    inside = [float(gap) for place, gap in enumerate(gaps, start=1) if place > steps and place % steps]
    step = statistics.median(inside)
    return [
        Result(name=f"{examples} examples: from step to step of 2 ms", value=1e3 * step, unit="ms"),
        Result(
            name=f"{examples} examples: between epochs, beyond a step",
            value=1e3 * (statistics.median(between) - step),
            unit="ms",
        ),
    ]


def _starts(data: Path, manifest: Manifest, *, epochs: int) -> list[float]:
    """Trains, and returns when each step was started, in s."""
    config = TrainConfig(
        data=str(data), run=str(data / "run"), preset="tiny", strategy="single", epochs=epochs, batch_size=_BATCH
    )
    trainer = Trainer(config, manifest, make_strategy("single"))
    figures = tf.zeros(2 + trainer.stepper.latent)
    starts: list[float] = []

    def train(mel: Any, *, count: int, stop: bool, step: int) -> tf.Tensor:
        starts.append(time.perf_counter())
        time.sleep(_STEP_S)
        return figures

    trainer.stepper.train = train  # type: ignore[method-assign]
    trainer.batches.require_unchanged()
    stop = threading.Event()
    with Progress("train", quiet=True) as bar, trainer._saver.writer:
        while trainer.state.epoch < epochs:
            trainer._epoch(stop, bar)
    return starts
