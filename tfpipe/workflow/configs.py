"""The configs of the job and of training, made from one flat set of keywords such as `latent=8, n_mels=64`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from beam_jobs.config import PreprocessConfig
    from tfpipe.training.config import TrainConfig

PathLike = str | os.PathLike[str]


def preprocess_config(
    inputs: PathLike | Iterable[PathLike], output: PathLike, settings: Mapping[str, Any]
) -> PreprocessConfig:
    """Makes the config of the preprocessing job.

    Args:
        inputs: one input or several: folders, files, globs, or lists of files.
        output: dataset folder.
        settings: fields of `PreprocessConfig` and of `FeatureSpec`.

    Raises:
        UsageError: a setting is unknown or not allowed.
    """
    from beam_jobs.config import PreprocessConfig
    from tfpipe.spec import FeatureSpec

    job, features = _parted(settings, PreprocessConfig, FeatureSpec, leave_out=("inputs", "output"))
    if features:
        job["spec"] = dataclasses.replace(job.get("spec", FeatureSpec()), **features)
    return PreprocessConfig(inputs=paths(inputs), output=os.fspath(output), **job)


def train_config(data: PathLike, run: PathLike, settings: Mapping[str, Any]) -> TrainConfig:
    """Makes the config of a training run.

    Args:
        data: dataset folder.
        run: run folder.
        settings: fields of `TrainConfig` and of `AugmentConfig`. An augmentation that is not given keeps
            the value that the preset has for it.

    Raises:
        UsageError: a setting is unknown or not allowed.
    """
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.training.config import TrainConfig

    training, augment = _parted(settings, TrainConfig, AugmentConfig, leave_out=("data", "run"))
    places: dict[str, Any] = {"data": os.fspath(data), "run": os.fspath(run)}
    config = TrainConfig(**places, **training)
    if not augment:
        return config
    # Not a copy of `config`, in which the preset's epochs would look as if they were given.
    return TrainConfig(
        **places, **{**training, "augment": dataclasses.replace(config.augment or AugmentConfig(), **augment)}
    )


def paths(inputs: PathLike | Iterable[PathLike]) -> tuple[str, ...]:
    """Returns one path or several as a tuple of text.

    Raises:
        UsageError: something is given that is not a path.
    """
    several = (inputs,) if isinstance(inputs, str | os.PathLike) else inputs
    try:
        return tuple(os.fspath(path) for path in several)
    except TypeError:
        raise UsageError(f"{inputs!r} is not a path; give a path, or several in a list") from None


def parted(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides the settings of a whole chain into those of the job and those of training.

    Raises:
        UsageError: a setting is of neither.
    """
    from beam_jobs.config import PreprocessConfig
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.spec import FeatureSpec
    from tfpipe.training.config import TrainConfig

    job = (names(PreprocessConfig) | names(FeatureSpec)) - {"inputs", "output", "overwrite"}
    training = (names(TrainConfig) | names(AugmentConfig)) - {"data", "run"}
    require_known(settings, job | training)
    return (
        {name: value for name, value in settings.items() if name in job},
        {name: value for name, value in settings.items() if name in training},
    )


def _parted(
    settings: Mapping[str, Any], config: type, inner: type, *, leave_out: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides settings into those of a config and those of the config that one of its fields holds."""
    own, others = names(config) - set(leave_out), names(inner)
    require_known(settings, own | others)
    return (
        {name: value for name, value in settings.items() if name in own},
        {name: value for name, value in settings.items() if name in others},
    )


def require_known(settings: Mapping[str, Any], known: set[str]) -> None:
    """Raises a UsageError that names the settings which are not among the known ones."""
    if unknown := sorted(settings.keys() - known):
        raise UsageError(f"{', '.join(unknown)}: no such setting; use {', '.join(sorted(known))}")


def names(config: Any) -> set[str]:
    """Returns the names of a config's fields."""
    return {field.name for field in dataclasses.fields(config)}
