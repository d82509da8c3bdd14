"""The state of a run: how far it is, and how that is saved and restored (needs TensorFlow)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.order import ORDER_VERSION
from tfpipe.training import checkpoint
from tfpipe.training.batches import Batches
from tfpipe.training.initial import Initial
from tfpipe.training.run_folder import CHECKPOINTS, read_history, selection_loss, write_history
from tfpipe.training.step import Stepper
from tfpipe.training.strategy import from_chief, worker

_OTHER_ORDER = (
    "the checkpoint is of an earlier version, which read the examples in another order: in the rest of epoch {}, some "
    "examples come a second time and others not at all; later epochs are complete"
)


@dataclass(kw_only=True)
class State:
    """How far a run is.

    Attributes:
        sums: of the current epoch: examples, and over them mse and KL per dimension, `[2 + latent]`.
        epoch: finished epochs.
        step: finished steps of the current epoch.
        best_loss: smallest validation loss of an epoch (training loss without a validation split).
        history: one row of figures for each finished epoch.
        raised_at: epochs that were finished when the run's number of epochs was last raised.
        notice: a sentence for the user about how the run was continued, or empty.
    """

    sums: NDArray[np.float64]
    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    raised_at: int = 0
    notice: str = ""

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean mse and KL per dimension of the current epoch so far, `[1 + latent]`."""
        return np.asarray(self.sums[1:] / self.sums[0])

    def add(self, means: NDArray[np.float64], *, examples: int) -> None:
        """Adds the figures of a step to those of the current epoch."""
        self.sums += np.concatenate([[examples], means * examples])

    def end_epoch(self, row: dict[str, Any]) -> bool:
        """Adds a row to the history, starts the next epoch, and returns whether the finished one is the best."""
        is_best = not self.history or selection_loss(row) < self.best_loss
        self.best_loss = min(self.best_loss, selection_loss(row))
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums[:] = 0.0
        return is_best

    def epochs_since_best(self) -> int:
        """Returns for how many epochs, since the last raise, the loss did not improve; 0 without a validation split."""
        if not self.history or self.history[-1].get("val_loss") is None:
            return 0
        # From memory and not from the file, so that all workers decide alike.
        best = min(range(len(self.history)), key=lambda index: selection_loss(self.history[index]))
        return len(self.history) - max(best + 1, self.raised_at)


def arrays_of(parts: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
    """Returns copies of the variables of each part, weights and optimizer, by the names that checkpoints give them."""
    return {
        name: np.array(variable)
        for prefix, variables in parts.items()
        for name, variable in checkpoint.named(variables, prefix).items()
    }


def take_over(saved: checkpoint.Checkpoint, parts: Mapping[str, Sequence[Any]], *, where: str) -> None:
    """Sets the variables of each part from a checkpoint.

    Raises:
        RunError: it is another model's.
    """
    for name, variables in parts.items():
        checkpoint.assign(variables, saved.arrays, prefix=name, where=where)


def share(strategy: tf.distribute.Strategy, found: Any, variables: Sequence[Any]) -> Any:
    """Gives every worker the chief's values of the variables, and returns the chief's `found` (plain JSON)."""
    found, values = from_chief(strategy, found, [np.asarray(variable) for variable in variables])
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return found


def values_of(state: State, *, steps: int, seed: int) -> dict[str, Any]:
    """Returns a copy of how far a run is, as JSON values.

    Args:
        state: how far the run is.
        steps: steps of an epoch.
        seed: stored for people who read the checkpoint.
    """
    return {
        "epoch": state.epoch,
        "step": state.epoch * steps + state.step,
        "next_epoch": state.epoch,
        "next_step": state.step,
        "seed": seed,
        "order": ORDER_VERSION,
        "sums": state.sums.tolist(),
        "best_loss": state.best_loss if math.isfinite(state.best_loss) else None,
    }


def save(
    folder: Path, values: dict[str, Any], arrays: dict[str, NDArray[Any]], *, best: bool = False, keep: bool = False
) -> None:
    """Writes a checkpoint of the run.

    Args:
        folder: run folder.
        values: `values_of` its state.
        arrays: `arrays_of` its parts.
        best: also make it the best checkpoint.
        keep: never delete it.
    """
    checkpoint.save(folder / CHECKPOINTS, arrays, values, step=values["step"], best=best, keep=keep)


def order_notice(stored: Mapping[str, Any]) -> str:
    """Returns a sentence if the values of a checkpoint are a place in another order of the examples, else nothing."""
    if not stored["next_step"] or stored.get("order", 1) == ORDER_VERSION:
        return ""
    return _OTHER_ORDER.format(stored["next_epoch"] + 1)


def restore(
    folder: Path,
    state: State,
    *,
    stepper: Stepper,
    batches: Batches,
    strategy: tf.distribute.Strategy,
    initial: Initial | None = None,
) -> None:
    """Sets state, weights and optimizer from the latest checkpoint, or to the start of a new run.

    A new run starts from PCA of the training split, or from `initial`. Only the chief (worker 0) reads the run
    folder, and sends what it finds to the other workers, which need no run folder.

    Raises:
        RunError: the checkpoint is damaged, or another model's.
    """
    is_chief = worker(strategy)[0] == 0
    saved = checkpoint.load(folder / CHECKPOINTS) if is_chief else None
    found: dict[str, Any] = {"epoch": 0, "step": 0, "best_loss": None, "sums": state.sums.tolist(), "history": []}
    if saved is not None:
        take_over(saved, stepper.parts(), where=str(folder))
        stored = saved.state
        found = {name: stored[name] for name in ("best_loss", "sums")}
        # A row may have been written without the checkpoint of its epoch: then the epoch is trained again.
        found["history"] = [row for row in read_history(folder) if row["epoch"] <= stored["next_epoch"]]
        found |= {"epoch": stored["next_epoch"], "step": stored["next_step"]}
        state.notice = order_notice(stored)
    elif is_chief and initial is not None:
        stepper.start_from(initial.arrays, where=initial.path)
    elif is_chief:
        stepper.start(batches.sample())
    found = share(strategy, found, [variable for part in stepper.parts().values() for variable in part])
    state.epoch, state.step, state.history = found["epoch"], found["step"], found["history"]
    state.best_loss = math.inf if found["best_loss"] is None else found["best_loss"]
    state.sums = np.asarray(found["sums"])
    if is_chief:
        write_history(folder, state.history)
