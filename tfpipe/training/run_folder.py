"""The run folder: `config.json`, `spec.json`, `checkpoints/`, `metrics.jsonl`, `DONE`.

`TrainConfig` and reading need no TensorFlow; `load_models` does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.data_service import addresses
from tfpipe.data.manifest import Manifest, load_manifest
from tfpipe.errors import RunError, UsageError
from tfpipe.files.remote import require_local
from tfpipe.files.storage import read_json, write_json
from tfpipe.model.presets import JIT_COMPILE, PRECISIONS, PRESETS
from tfpipe.model.presets import preset as named_preset
from tfpipe.spec import FeatureSpec
from tfpipe.training import checkpoint, latent_health

CONFIG, SPEC, METRICS, DONE, CHECKPOINTS = "config.json", "spec.json", "metrics.jsonl", "DONE", "checkpoints"
SHARD_BY = ("record", "file")
ON_CORRUPT = ("error", "skip")
STRATEGIES = ("auto", "single", "mirrored", "multiworker")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run.

    Attributes:
        data: dataset folder, local or a URL.
        run: run folder.
        preset: `standard`, `notebook`, `large` or `tiny`.
        latent: dimensions of z.
        batch_size: examples in a global batch, over all workers; the preset's when None.
        epochs: passes over the training split; the preset's when None.
        learning_rate: Adam's peak learning rate; the preset's when None.
        schedule: `cosine` (short warm-up, decay to 2 %) or `constant`; the preset's when None.
        patience: stop after this many epochs without a better validation loss; 0 never; the preset's when None.
        seed: initial weights, order and noise all follow from it.
        precision: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.
        strategy: `auto`, `single`, `mirrored` or `multiworker`.
        jit_compile: XLA: `auto`, `on` or `off`.
        average: decay of the moving average of the weights that is validated, saved and exported
            instead of the weights themselves, such as 0.99; 0 is off.
        keep_every: keep the checkpoint of every so many epochs besides latest and best; 0 keeps none.
        checkpoint_every_s: s between checkpoints inside an epoch.
        on_corrupt: `error` ends with a damaged shard's name and place, `skip` leaves out what follows the damage.
        cache: local folder that shards are copied to before they are read; none when empty.
        data_service: addresses of data service processes with commas between them; none when empty.
        shard_by: with several workers, `record` (each reads all; batches are those of one worker) or `file`
            (each reads a share).
        augment: what is done to training windows on their way to the model; the preset's when None.

    Raises:
        UsageError: a value is out of range.
    """

    data: str
    run: str
    preset: str = "standard"
    latent: int = 16
    batch_size: int | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    patience: int | None = None
    seed: int = 0
    precision: str = "auto"
    strategy: str = "auto"
    jit_compile: str = "auto"
    average: float = 0.0
    keep_every: int = 0
    checkpoint_every_s: float = 60.0
    on_corrupt: str = "error"
    cache: str = ""
    data_service: str = ""
    shard_by: str = "record"
    augment: AugmentConfig | None = None

    def __post_init__(self) -> None:
        for name in ("data", "run", "cache"):  # a Path is welcome
            object.__setattr__(self, name, os.fspath(getattr(self, name)))
        require_local(self.run, what="the run folder")
        require_local(self.cache, what="the cache")
        addresses(self.data_service)
        names = {
            "preset": tuple(PRESETS),
            "precision": PRECISIONS,
            "strategy": STRATEGIES,
            "jit_compile": JIT_COMPILE,
            "on_corrupt": ON_CORRUPT,
            "shard_by": SHARD_BY,
        }
        for name, known in names.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(known)}")
        chosen = named_preset(self.preset)
        for name in ("batch_size", "epochs", "learning_rate", "schedule", "patience"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(chosen, name))
        if self.augment is None:
            object.__setattr__(self, "augment", preset_augment(self.preset))
        rules = [
            (1 <= self.latent <= 4096, "latent", "1 to 4096"),
            (1 <= (self.batch_size or 0) <= 65_536, "batch_size", "1 to 65536"),
            (1 <= (self.epochs or 0) <= 1_000_000, "epochs", "1 to 1000000"),
            (0.0 < (self.learning_rate or 0.0) <= 1.0, "learning_rate", "above 0 and at most 1"),
            (self.schedule in ("cosine", "constant"), "schedule", "cosine or constant"),
            ((self.patience or 0) >= 0, "patience", "0 (never stop early) or more"),
            (0 <= self.seed < 2**31, "seed", "0 to 2147483647"),
            (0.0 <= self.average < 1.0, "average", "0 (off) or a decay below 1"),
            (self.keep_every >= 0, "keep_every", "0 (none) or a number of epochs"),
            (self.checkpoint_every_s > 0.0, "checkpoint_every_s", "above 0 s"),
        ]
        for ok, name, allowed in rules:
            if not ok:
                raise UsageError(f"{name}={getattr(self, name)!r} is out of range; use {allowed}")

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings as plain JSON values, those of `augment` among the rest."""
        values = dataclasses.asdict(self)
        augment = values.pop("augment")
        return {**values, **augment}

    def settings(self) -> dict[str, Any]:
        """Returns what decides the result: a run folder goes on only under equal settings."""
        values = self.to_dict()
        for place in (
            "data",
            "run",
            "jit_compile",
            "keep_every",
            "checkpoint_every_s",
            "strategy",
            "on_corrupt",
            "cache",
            "data_service",
            "shard_by",
        ):
            del values[place]
        return values


def preset_augment(preset: str) -> AugmentConfig:
    """Returns the augmentation that a preset trains with unless told."""
    return AugmentConfig(**named_preset(preset).augment)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder as it stands.

    Attributes:
        path: the folder.
        config: `config.json`.
        spec: the feature spec.
        history: one mapping per finished epoch.
        done: whether training has finished.
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
        """What is wrong with the latent and what to change, a sentence each; empty when all is well."""
        return tuple(
            latent_health.warnings(self.history, preset=self.config["preset"], latent=self.config["latent"]).values()
        )

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints there are, such as `step-00000120`, oldest first."""
        return tuple(sorted(path.name for path in (self.path / CHECKPOINTS).glob("step-*")))

    def load(self, which: str = checkpoint.BEST) -> TrainedModel:
        """Returns the trained models of a checkpoint; see `load_models`."""
        return load_models(self.path, which=which)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained VAE in float32.

    Attributes:
        spec: the feature spec it was trained on.
        labels: label names of its dataset.
        latent: dimensions of z.
        encoder: Keras model, mel `[n, n_mels, frames, 1]` -> z_mean, z_log_var `[n, latent]`.
        decoder: Keras model, z `[n, latent]` -> mel `[n, n_mels, frames, 1]` in [0, 1].
        metadata: JSON values for people and programs: preset, dataset, step, metrics.
    """

    spec: FeatureSpec
    labels: tuple[str, ...]
    latent: int
    encoder: Any
    decoder: Any
    metadata: dict[str, Any] = field(default_factory=dict)


def load_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        RunError: no run there, or damaged.
    """
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


def claim(folder: Path, config: TrainConfig, manifest: Manifest, *, machine: Mapping[str, Any] | None = None) -> None:
    """Writes the settings into a new run folder, or checks that they are those of the run there.

    Args:
        folder: the run folder.
        config: the settings.
        manifest: the dataset.
        machine: what `auto` came to, such as the precision policy and the number of
            replicas; other values would not go on exactly. Not compared when None.

    Raises:
        RunError: the folder holds a run of other settings or of another dataset.
    """
    wanted = {**config.settings(), "labels": list(manifest.labels), "dataset": manifest.fingerprint, **(machine or {})}
    if (folder / CONFIG).exists():
        stored = read_config(folder)
        differing = [
            f"{key}: {stored.get(key)} there, {wanted[key]} now" for key in wanted if stored.get(key) != wanted[key]
        ]
        if differing:
            raise RunError(
                f"{folder}: holds a run with other settings ({'; '.join(differing)}); "
                "use those, or another --run folder"
            )
        return
    write_json(folder / SPEC, manifest.spec.to_dict())
    write_json(folder / CONFIG, {**config.to_dict(), **wanted})


def read_config(path: Path) -> dict[str, Any]:
    """Reads a run folder's `config.json`; a setting that is younger than the run was off in it.

    Raises:
        TfpipeError: damaged.
    """
    young = {"left_out": [], "shard_by": "record", "average": 0.0, "xla": False}
    return {**dataclasses.asdict(AugmentConfig()), **young, **read_json(path / CONFIG)}


def finished(config: TrainConfig) -> Run | None:
    """Returns the run if it stands finished under these settings; answers without TensorFlow.

    Raises:
        DatasetError: no dataset.
        RunError: the folder holds a run of other settings.
    """
    manifest, folder = load_manifest(config.data), Path(config.run)
    if not (folder / CONFIG).exists():
        return None
    claim(folder, config, manifest)
    return load_run(folder) if (folder / DONE).exists() else None


def read_history(path: Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not (path / METRICS).exists():
        return []
    rows = []
    for line in (path / METRICS).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def selection_loss(row: Mapping[str, Any]) -> float:
    """Returns the loss that decides which epoch is best."""
    return float(row["val_loss"] if row.get("val_loss") is not None else row["loss"])


def load_models(run: Path, *, which: str = checkpoint.BEST) -> TrainedModel:
    """Rebuilds a run's models in float32 and loads a checkpoint's weights.

    A mixed-precision policy would survive a reload and run many times slower
    on a CPU server, so it is not rebuilt.

    Args:
        run: run folder.
        which: `best`, `latest`, or a checkpoint's own name such as `step-00000120`.

    Raises:
        RunError: no run, no checkpoint yet, or weights of another model.
    """
    from tfpipe.model import networks

    loaded = load_run(run)
    saved = checkpoint.load(run / CHECKPOINTS, which)
    if saved is None:
        raise RunError(
            f"{run}: holds no {which} checkpoint yet; run `tfpipe train --data DIR --run {run}` until an epoch is done"
        )
    config = loaded.config
    models = networks.build(config["preset"], loaded.spec, latent=config["latent"])
    for part in models:
        assign(part.weights, saved.arrays, prefix=part.name, where=str(run))
    return TrainedModel(
        spec=loaded.spec,
        labels=tuple(config["labels"]),
        latent=config["latent"],
        encoder=models.encoder,
        decoder=models.decoder,
        metadata={
            "preset": config["preset"],
            "latent": config["latent"],
            "dataset": config["dataset"],
            "checkpoint": which,
            "epoch": saved.state["epoch"],
            "step": saved.state["step"],
            "metrics": next((dict(row) for row in loaded.history if row["step"] == saved.state["step"]), {}),
        },
    )


def named(variables: list[Any], prefix: str) -> dict[str, Any]:
    """Returns variables by a name that is unique and stable: position and Keras path."""
    return {f"{prefix}/{index:03d}/{_plain(variable.name)}": variable for index, variable in enumerate(variables)}


def assign(variables: list[Any], arrays: Mapping[str, Any], *, prefix: str, where: str) -> None:
    """Sets variables from `named` arrays.

    Raises:
        RunError: names or shapes are those of another model.
    """
    wanted = named(variables, prefix)
    stored = {_plain(name): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}
    if stored.keys() != wanted.keys():
        raise RunError(f"{where}: the checkpoint's {prefix} is another model's; use the settings it was trained with")
    for name, variable in wanted.items():
        if tuple(variable.shape) != stored[name].shape:
            raise RunError(f"{where}: {name} is {stored[name].shape}, the model needs {tuple(variable.shape)}")
        variable.assign(stored[name])


def _plain(name: str) -> str:
    """Drops the numbers that Keras counts layers by: a process's second model has others than its first."""
    return re.sub(r"_\d+(?=_|$)", "", name)
