"""Checkpoints of a run, written while the next steps run (needs TensorFlow)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpipe.errors import RunError
from tfpipe.training import state as states
from tfpipe.training.background import Writer
from tfpipe.training.run_folder import write_history
from tfpipe.training.state import State
from tfpipe.training.step import Stepper


class Launched(NamedTuple):
    """A step that was started: its epoch and number, its batch, and the figures that the device will return."""

    epoch: int
    step: int
    examples: int
    keys: Any
    means: tf.Tensor

    def own_keys(self, strategy: tf.distribute.Strategy) -> list[str]:
        """Returns the keys of this worker's examples in the batch."""
        local = strategy.experimental_local_results(self.keys)
        return [key.decode() for part in local for key in np.asarray(part).tolist()]


class Saver:
    """Saves a run: copies its state, and writes the copy in a thread.

    Args:
        folder: run folder.
        stepper: the variables of the run.
        seed: stored for people who read the checkpoint.
        steps: steps of an epoch.
        not_finite: returns the error for weights that are not finite, after a step.

    Attributes:
        writer: what writes; leaving it as a context waits for the last checkpoint.
    """

    def __init__(
        self, folder: Path, stepper: Stepper, *, seed: int, steps: int, not_finite: Callable[[Launched], RunError]
    ) -> None:
        self.writer = Writer()
        self._folder, self._stepper, self._not_finite = folder, stepper, not_finite
        self._seed, self._steps, self._seconds = seed, steps, 0.0

    def save(
        self, state: State, *, after: Launched | None, best: bool = False, keep: bool = False, row: bool = False
    ) -> None:
        """Copies the state, and starts to write a checkpoint once the one before is written.

        Args:
            state: how far the run is.
            after: the last step that was taken, None before the first.
            best: also make it the best checkpoint.
            keep: never delete it.
            row: write the figures of the finished epochs too.

        Raises:
            RunError: the weights of the checkpoint before were not finite; it was not written.
            TfpipeError: the checkpoint before could not be written, for example because the disk is full.
        """
        started = time.monotonic()
        self.writer.wait()  # so that no more than two copies of the state are in memory
        arrays = states.arrays_of(self._stepper.parts())
        values = states.values_of(state, steps=self._steps, seed=self._seed)
        history = list(state.history)

        def write() -> None:
            if after is not None and not all(np.isfinite(array).all() for array in arrays.values()):
                raise self._not_finite(after)
            if row:
                # The checkpoint comes after the metrics: a resumed run drops rows of epochs without a checkpoint.
                write_history(self._folder, history)
            states.save(self._folder, values, arrays, best=best, keep=keep)

        self.writer.give(write)
        self._seconds += time.monotonic() - started

    def seconds(self) -> float:
        """Returns for how many seconds the run waited for its saves since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
