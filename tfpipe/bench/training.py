"""`tfpipe bench train`: compares training with the notebook's Keras code, and with the training step alone.

All train on the same examples in turn in one run.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfpipe.bench.boundary import measure_boundary
from tfpipe.bench.compare import Result, Step, compared, rates
from tfpipe.bench.input import repeated
from tfpipe.data.manifest import Manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Position
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import dequantise
from tfpipe.model import networks
from tfpipe.process.progress import Progress
from tfpipe.training.config import TrainConfig
from tfpipe.training.loop import Trainer
from tfpipe.training.strategy import make_strategy

_PRESETS = ("notebook", "sequence")
_BASELINE = "the notebook's Keras code, float32"
# Examples in the epochs whose boundary is measured: a few recordings, and some hours.
_BOUNDARIES = (150, 40_000)
# A multiple of the batch sizes of both presets.
_EXAMPLES = 480
_LATENT, _NOTEBOOK_BATCH = 16, 10


def bench_train(data: Path | None = None, *, rounds: int, steps: int = 6) -> list[Result]:
    """Measures training of each preset, with its own batch size and with precision `auto`.

    Args:
        data: dataset folder whose training examples are repeated; None uses noise.
        rounds: how often everything is timed.
        steps: training steps in one timing.

    Raises:
        UsageError: `rounds` is less than 1, or `steps` is not from 1 to 30.
        DatasetError: the dataset cannot be read.
    """
    if rounds < 1 or not 1 <= steps <= 30:
        raise UsageError(f"rounds={rounds}, steps={steps} cannot be measured; use at least 1, and at most 30 steps")
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as name:
        manifest = repeated(data, Path(name), _EXAMPLES)
        timed: dict[str, Step] = {_BASELINE: _notebook(Path(name), manifest, steps=steps)}
        loops = {}
        for preset in _PRESETS:
            trainer = new_trainer(Path(name), manifest, preset=preset)
            timed[f"{preset}: step"] = bare_steps(trainer, steps=steps)
            loops[preset] = Loop(trainer, steps=steps)
            timed[f"{preset}: loop"] = loops[preset].run
        found = rates(timed, rounds=rounds, what="train")
    baseline = found[_BASELINE]
    results = [compared(_BASELINE, baseline, against="baseline", of=baseline)]
    for preset, loop in loops.items():
        name, limit = f"{preset}, {loop.trainer.stepper.policy}", found[f"{preset}: step"]
        results += [
            compared(f"{name}: one batch in memory", limit, against="limit", of=limit),
            compared(f"{name}: streaming", found[f"{preset}: loop"], against="limit", of=limit),
            compared(
                f"{name}: streaming, against the notebook", found[f"{preset}: loop"], against="baseline", of=baseline
            ),
            Result(name=f"{name}: what the loop adds", value=statistics.median(loop.added), unit="% of a step"),
        ]
    return [*results, *(result for examples in _BOUNDARIES for result in measure_boundary(examples, rounds=rounds))]


def new_trainer(data: Path, manifest: Manifest, **settings: Any) -> Trainer:
    """Returns a trainer on one device that is ready for its first step and saves no checkpoints."""
    config = TrainConfig(
        data=str(data), run=str(data / "run"), strategy="single", epochs=1000, checkpoint_every_s=1e9, **settings
    )
    trainer = Trainer(config, manifest, make_strategy("single"))
    trainer.stepper.start(trainer.batches.sample())
    return trainer


def bare_steps(trainer: Trainer, *, steps: int) -> Callable[[], int]:
    """Returns a function that trains `steps` steps on one batch in the device's memory, and returns their examples."""
    size, train = trainer.batches.batch_size, trainer.stepper.train
    mel = tf.identity(next(trainer.batches.training(Position()))["mel"])

    def run() -> int:
        for step in range(steps):
            means = train(mel, count=size, stop=False, step=step)
        np.asarray(means)  # waits for the device
        return steps * size

    return run


class Loop:
    """The loop of `tfpipe train`, which reads TFRecords, run for a few steps at a time.

    Attributes:
        trainer: the trainer whose loop is run.
        added: for each run, the share of its time that is neither the step nor waiting for input, in %.
        waited: for each run, the share of its time that it waited for input, in %.
    """

    def __init__(self, trainer: Trainer, *, steps: int) -> None:
        self.trainer, self._steps = trainer, steps
        self.added: list[float] = []
        self.waited: list[float] = []
        self._inside = 0.0
        trainer.stepper.train = self._clocked(trainer.stepper.train)  # type: ignore[method-assign]
        trainer.stepper.read = self._clocked(trainer.stepper.read)  # type: ignore[method-assign]

    def run(self) -> tuple[int, float]:
        """Runs the last steps of an epoch; returns examples and time in s. Opening the files is not timed."""
        trainer = self.trainer
        state = trainer.state
        state.epoch, state.step = state.epoch + 1, trainer.batches.steps - self._steps
        batches = trainer.batches.training(Position(epoch=state.epoch, step=state.step))
        first = next(batches)
        started, self._inside = time.perf_counter(), 0.0
        with Progress("train", quiet=True) as bar:
            waited = trainer.advance(itertools.chain([first], batches), stop=threading.Event(), bar=bar)
        seconds = time.perf_counter() - started
        self.added.append(100.0 * (seconds - waited - self._inside) / seconds)
        self.waited.append(100.0 * waited / seconds)
        return self._steps * trainer.batches.batch_size, seconds

    def _clocked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self._inside += time.perf_counter() - started
            return result

        return call


def _notebook(data: Path, manifest: Manifest, *, steps: int) -> Callable[[], int]:
    """Returns a step that trains as the notebook does: arrays in memory, float32, Keras's `fit`."""

    class Sampling(layers.Layer):
        def call(self, inputs: Any) -> Any:
            z_mean, z_log_var = inputs
            self.add_loss(keras.ops.mean(-0.5 * (1 + z_log_var - z_mean**2 - keras.ops.exp(z_log_var))))
            return z_mean + keras.ops.exp(0.5 * z_log_var) * keras.random.normal(keras.ops.shape(z_mean))

    encoder, decoder = networks.build("notebook", manifest.spec, latent=_LATENT)
    mel = keras.Input((*manifest.spec.mel_shape, 1))
    vae = keras.Model(mel, decoder(Sampling()(encoder(mel))))
    vae.compile(optimizer="adam", loss="mse")
    dataset = make_dataset(data, split="train", batch_size=steps * _NOTEBOOK_BATCH, manifest=manifest)
    x = dequantise(next(dataset.as_numpy_iterator())["mel"])

    def run() -> int:
        vae.fit(x, x, batch_size=_NOTEBOOK_BATCH, epochs=1, verbose=0)
        return len(x)

    return run
