"""The run folder: the files in it, how they are written, and how they are read. Loads no TensorFlow.

`config.json` holds the settings and `spec.json` the feature spec. `checkpoints/` holds the weights, see
`tfpipe.training.checkpoint`. `metrics.jsonl` has one line for each finished epoch, `tensorboard/` the
event files. `DONE` says that encoder and decoder are trained. `prior/` is described in
`tfpipe.training.prior_folder`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.manifest import Manifest
from tfpipe.errors import RunError
from tfpipe.files.storage import read_json, write_bytes, write_json
from tfpipe.model.presets import current_name
from tfpipe.spec import FeatureSpec
from tfpipe.training import checkpoint, latent_health, raising
from tfpipe.training.config import OF_PRIOR, TrainConfig
from tfpipe.training.raising import Raise

if TYPE_CHECKING:
    from tfpipe.training.trained_model import TrainedModel

CONFIG, SPEC, METRICS, DONE, CHECKPOINTS = "config.json", "spec.json", "metrics.jsonl", "DONE", "checkpoints"
# Settings that were added after the first runs were written, with the value that those runs were trained with.
_ADDED_LATER = {
    **dataclasses.asdict(AugmentConfig()),
    "left_out": [],
    "shard_by": "record",
    "average": 0.0,
    "xla": False,
    "raised": [],
    "init": None,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """The contents of a run folder.

    Attributes:
        path: the folder.
        config: `config.json`.
        spec: the feature spec.
        history: one mapping per finished epoch.
        done: whether encoder and decoder are trained.
    """

    path: Path
    config: Mapping[str, Any]
    spec: FeatureSpec
    history: tuple[Mapping[str, Any], ...]
    done: bool

    @property
    def best(self) -> Mapping[str, Any]:
        """The epoch with the best validation loss (training loss without a validation split)."""
        return min(self.history, key=selection_loss)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each problem of the latent, with the fix; empty if there is none."""
        config = self.config
        return tuple(latent_health.warnings(self.history, preset=config["preset"], latent=config["latent"]).values())

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the stored checkpoints, such as `step-00000120`, oldest first."""
        return tuple(sorted(path.name for path in (self.path / CHECKPOINTS).glob("step-*")))

    def load(self, which: str = checkpoint.BEST) -> TrainedModel:
        """Returns the models of a checkpoint; see `tfpipe.training.trained_model.load_models`."""
        from tfpipe.training.trained_model import load_models

        return load_models(self.path, which=which)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Reads a run folder.

    Raises:
        RunError: there is no run in the folder, or it is damaged.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        raise RunError(
            f"{path}: no training run here (no {CONFIG}); make one with `tfpipe train --data DIR --run {path}`"
        )
    return Run(
        path=path,
        config=read_config(path),
        spec=FeatureSpec.from_dict(read_json(path / SPEC)),
        history=tuple(read_history(path)),
        done=(path / DONE).exists(),
    )


def claim(
    folder: Path,
    config: TrainConfig,
    manifest: Manifest,
    *,
    machine: Mapping[str, Any] | None = None,
    raises: Sequence[Raise] = (),
    init: Mapping[str, Any] | None = None,
) -> None:
    """Writes the settings into a new run folder, or checks that an existing run has the same ones.

    If the config asks for more epochs than the existing run has, the run becomes one of that many epochs.

    Args:
        folder: the run folder.
        config: the settings.
        manifest: the dataset.
        machine: the values that `auto` was resolved to, such as the precision policy and the number of
            replicas. A run can be continued exactly only with the same ones. None leaves them unchecked.
        raises: `planned_raises` of the config.
        init: which weights a new run begins with, see `tfpipe.training.initial`.

    Raises:
        RunError: the folder holds a run with other settings or of another dataset.
    """
    wanted = {**wanted_config(config, manifest), **(machine or {})}
    if not (folder / CONFIG).exists():
        write_json(folder / SPEC, manifest.spec.to_dict())
        written = {name: value for name, value in config.to_dict().items() if name not in OF_PRIOR}
        write_json(folder / CONFIG, {**written, **wanted, "init": init})
        return
    stored = read_config(folder)
    _require_same(folder, stored, config, wanted)
    if raising.is_raise(stored, config):
        raising.write_raise(folder / CONFIG, folder / DONE, epochs=int(config.epochs or 0), raises=raises)


def trained(config: TrainConfig, manifest: Manifest) -> Run | None:
    """Returns the run in the folder if its autoencoder is trained with these settings and epochs, else None.

    Raises:
        RunError: the folder holds a run with other settings, or of another dataset.
    """
    folder = Path(config.run)
    if not (folder / CONFIG).exists():
        return None
    stored = read_config(folder)
    _require_same(folder, stored, config, wanted_config(config, manifest))
    return load_run(folder) if (folder / DONE).exists() and not raising.is_raise(stored, config) else None


def stored_latent(config: TrainConfig, manifest: Manifest) -> int | str | None:
    """Returns the size of the latent to train with: the config's, or that of the run in its folder if it has none.

    The version that began the run may have had another size as the default of the preset. A run of another preset or
    dataset cannot be continued, so its size does not matter; it need not fit this dataset's windows either.
    """
    folder = Path(config.run)
    if config.latent is not None or not (folder / CONFIG).exists():
        return config.latent
    stored = read_config(folder)
    if (stored["preset"], stored.get("dataset")) != (config.preset, manifest.fingerprint):
        return None
    steps, channels = stored["latent_shape"]
    return f"{steps}x{channels}" if steps > 1 else int(channels)


def planned_raises(config: TrainConfig) -> list[Raise]:
    """Returns the raises of the run in the folder, with the one that `config` asks for; empty without a run."""
    folder = Path(config.run)
    return raising.raises_of(folder, read_config(folder), config) if (folder / CONFIG).exists() else []


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Returns the names of the settings that keep a run from being continued.

    Args:
        stored: its `config.json`.
        wanted: the settings to continue with.
        config: the config that `wanted` was made of.
    """
    names = [name for name in wanted if stored.get(name) != wanted[name]]
    if config.init_name != _init_name(stored):
        names.append("init")
    return [name for name in names if not (name == "epochs" and raising.is_raise(stored, config))]


def _init_name(stored: Mapping[str, Any]) -> str | None:
    """Returns the name of the run whose weights a run began with, or None."""
    return stored["init"]["run"] if stored["init"] else None


def _require_same(folder: Path, stored: Mapping[str, Any], config: TrainConfig, wanted: Mapping[str, Any]) -> None:
    """Raises a RunError that names the settings which keep the run from being continued."""
    names = differing(stored, wanted, config)
    if names == ["epochs"]:
        raising.require_allowed(folder, stored, config)
    if names:
        there, now = {**stored, "init": _init_name(stored)}, {**wanted, "init": config.init_name}
        values = "; ".join(f"{name}: {there.get(name)} there, {now[name]} now" for name in names)
        raise RunError(f"{folder}: holds a run with other settings ({values}); use those, or another --run folder")


def wanted_config(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """Returns the values of `config.json` that a run must have to be continued, without those of the machine."""
    wanted = {**config.settings(), **_model(config, manifest.spec), "labels": list(manifest.labels)}
    return {**wanted, "dataset": manifest.fingerprint}


def _model(config: TrainConfig, spec: FeatureSpec) -> dict[str, Any]:
    """Returns the values that say which networks were trained, whatever later versions mean by the preset's name."""
    shape = config.latent_shape(spec)
    network = config.chosen.network
    return {"network": network, "latent": shape.size, "latent_shape": [shape.steps, shape.channels]}


def read_config(path: Path) -> dict[str, Any]:
    """Reads `config.json` of a run folder.

    Raises:
        TfpipeError: the file is damaged.
    """
    stored = read_json(path / CONFIG)
    name = stored.get("preset", "")
    # Before latents could be sequences, each preset but one had the same network.
    earlier = {"network": "notebook" if name == "notebook" else "timewise", "latent_shape": [1, stored.get("latent")]}
    return {**_ADDED_LATER, **earlier, **stored, "preset": current_name(name)}


def read_history(path: Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`, without a last line that is incomplete because the process was killed."""
    if not (path / METRICS).exists():
        return []
    rows = []
    for line in (path / METRICS).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `metrics.jsonl`, one line for each finished epoch."""
    write_bytes(path / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())


def mark_done(path: Path) -> None:
    """Writes `DONE` into a folder, which marks its stage of training as finished."""
    write_bytes(path / DONE, b"")


def selection_loss(row: Mapping[str, Any]) -> float:
    """Returns the loss that decides which epoch is best: that of validation, or of training without validation."""
    return float(row["val_loss"] if row.get("val_loss") is not None else row["loss"])
