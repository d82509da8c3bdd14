"""The weights that a run begins with, if they are those of another run (`--init RUN`). Loads no TensorFlow.

`config.json` records under `init` which weights these were. The run saves them as its own first checkpoint, so that
the other run is not needed to continue.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tfpipe.errors import RunError, UsageError
from tfpipe.model.latent_shape import LatentShape
from tfpipe.model.presets import PRESETS, Preset, stored_preset
from tfpipe.spec import FeatureSpec, require_same_spec
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig
from tfpipe.training.prior_folder import autoencoder_digest
from tfpipe.training.run_folder import CHECKPOINTS, CONFIG, Run, load_run, read_config

# Parts of a checkpoint that are taken over. Optimizer, average and prior begin anew.
_PARTS = ("encoder/", "decoder/")


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Weights of another run.

    Attributes:
        path: its run folder.
        record: what `config.json` says of them: `run` (the folder's name), `checkpoint`, `epoch`, and `weights`,
            a SHA-256 over the arrays.
        arrays: the weights by the names that checkpoints give them.
    """

    path: str
    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def load_initial(config: TrainConfig, spec: FeatureSpec) -> Initial | None:
    """Reads the weights that a run begins with.

    Args:
        config: the settings of the run.
        spec: the feature spec of its dataset.

    Returns:
        The best weights of the run that `init` names; None without `init`, and if the run is beyond its start.

    Raises:
        RunError: there is no such run, it has no checkpoint, or its networks or latent are others.
        SpecMismatch: it was trained on another feature spec.
        UsageError: it is the run itself.
    """
    folder = Path(config.run)
    if not config.init or checkpoint.pointed(folder / CHECKPOINTS) is not None:
        return None
    if Path(config.init).resolve() == folder.resolve():
        raise UsageError(f"--init {config.init}: is the run folder itself; name another run, or leave --init out")
    recorded = read_config(folder)["init"] if (folder / CONFIG).exists() else None
    found = _read(config)
    _require_same_networks(found, config, spec)
    saved = checkpoint.load(found.path / CHECKPOINTS, checkpoint.BEST)
    if saved is None:
        raise RunError(f"--init {config.init}: no checkpoint there yet; train that run for an epoch first")
    arrays = {name: array for name, array in saved.arrays.items() if name.startswith(_PARTS)}
    record = {
        "run": config.init_name,
        "checkpoint": checkpoint.pointed(found.path / CHECKPOINTS, checkpoint.BEST),
        "epoch": saved.state["epoch"],
        "weights": autoencoder_digest(saved),
    }
    if recorded is not None and recorded["weights"] != record["weights"]:
        raise RunError(
            f"{folder}: was to begin with other weights of {recorded['run']} than it has now, and has trained nothing "
            "yet; use another --run folder"
        )
    return Initial(path=os.fspath(found.path), record=record, arrays=arrays)


def _read(config: TrainConfig) -> Run:
    try:
        return load_run(config.init)
    except RunError as error:
        raise RunError(f"--init {config.init}: no training run there; name the run folder of `tfpipe train`") from error


def _require_same_networks(found: Run, config: TrainConfig, spec: FeatureSpec) -> None:
    """Refuses a run whose weights do not fit; the message names both values."""
    require_same_spec(found.spec, spec, expected_from=f"--init {config.init}", actual_from=config.data)
    theirs, ours = stored_preset(found.config["preset"], found.config["network"]), config.chosen
    if _size(theirs) != _size(ours):
        fix = f"use --preset {theirs.name}" if theirs == PRESETS[theirs.name] else f"use an --init of {ours.name}"
        raise RunError(
            f"--init {config.init}: has the networks of preset {_named(theirs)}, and this run those of "
            f"{_named(ours)}; {fix}"
        )
    there, here = LatentShape(*found.config["latent_shape"]), config.latent_shape(spec)
    if there != here:
        raise RunError(f"--init {config.init}: has a latent of {there}, and this run of {here}; use --latent {there}")


def _size(preset: Preset) -> tuple[Any, ...]:
    return preset.network, preset.width, preset.depth, preset.linear, preset.pads


def _named(preset: Preset) -> str:
    return f"{preset.name} ({preset.network}, width {preset.width})"
