"""Raising the epochs of a run that is in a folder already. Loads no TensorFlow.

`config.json` lists each raise under `raised`: `epochs` that were planned before it, and `epoch` and `step` of the
checkpoint from which the run continues. The learning rate is a function of this list, see
`tfpipe.training.learning_rate`, so a raised run that is killed continues exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfpipe.errors import RunError
from tfpipe.files.storage import read_json, write_json
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig

# A raise as it is stored: `epochs` planned before, finished `epoch`s and `step`s of the run by then.
Raise = Mapping[str, int]


def is_raise(stored: Mapping[str, Any], config: TrainConfig) -> bool:
    """Tells whether `config` asks for more epochs than the run whose `config.json` is given; a default does not."""
    return config.epochs_given and int(config.epochs or 0) > int(stored["epochs"])


def require_allowed(folder: Path, stored: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuses another number of epochs than that of the run, unless it is a raise.

    Raises:
        RunError: fewer epochs are asked for, or the preset's default is another number.
    """
    there, wanted = stored["epochs"], config.epochs
    if wanted == there or is_raise(stored, config):
        return
    if not config.epochs_given:
        raise RunError(
            f"{folder}: holds a run of {there} epochs, and without --epochs the preset asks for {wanted}; "
            f"give --epochs {there}, or more to train it further"
        )
    raise RunError(
        f"{folder}: holds a run of {there} epochs, which cannot be lowered to {wanted}; "
        f"use --epochs {there} or more, or another --run folder"
    )


def raises_of(folder: Path, stored: Mapping[str, Any], config: TrainConfig) -> list[Raise]:
    """Returns the raises of a run, with the one that `config` asks for as the last.

    Args:
        folder: run folder.
        stored: its `config.json`.
        config: the settings to continue with.
    """
    raises = list(stored["raised"])
    if not is_raise(stored, config):
        return raises
    checkpoints = folder / "checkpoints"
    name = checkpoint.pointed(checkpoints)
    if name is None:
        return raises  # nothing is trained yet: the run simply begins with the new plan
    state = read_json(checkpoints / name / "state.json")
    return [*raises, {"epochs": stored["epochs"], "epoch": state["epoch"], "step": state["step"]}]


def write_raise(config_file: Path, done_file: Path, *, epochs: int, raises: Sequence[Raise]) -> None:
    """Makes a run one of more epochs.

    `DONE` is removed first. If the process is killed before `config.json` is replaced, the folder therefore holds an
    unfinished run of the old number of epochs, which can be raised again.
    """
    done_file.unlink(missing_ok=True)
    write_json(config_file, {**read_json(config_file), "epochs": epochs, "raised": list(raises)})


def sentence(raises: Sequence[Raise], epochs: int) -> str:
    """Returns what the last raise did, or an empty text."""
    if not raises:
        return ""
    last = raises[-1]
    return f"epochs raised from {last['epochs']} to {epochs} after epoch {last['epoch']} (step {last['step']})"
