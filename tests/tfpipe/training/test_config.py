"""The settings of a training run: the preset's defaults, paths, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.errors import UsageError
from tfpipe.model.presets import PRESETS
from tfpipe.training.config import TrainConfig


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_not_given_is_the_presets(name: str) -> None:
    config, preset = TrainConfig(data="d", run="r", preset=name), PRESETS[name]
    for setting in ("batch_size", "epochs", "learning_rate", "schedule", "patience"):
        assert getattr(config, setting) == getattr(preset, setting)
        assert getattr(config, setting) is not None
    assert config.augment == AugmentConfig(**preset.augment)


def test_what_is_given_goes_before_the_presets() -> None:
    config = TrainConfig(data="d", run="r", preset="notebook", patience=3, augment=AugmentConfig(roll_s=1.0))
    assert (config.patience, config.batch_size, config.augment) == (3, 10, AugmentConfig(roll_s=1.0))


def test_paths_are_stored_as_text() -> None:
    config = TrainConfig(data=Path("d"), run=Path("r"), cache=Path("c"))  # type: ignore[arg-type]
    assert (config.data, config.run, config.cache) == ("d", "r", "c")


def test_places_and_speed_do_not_count_as_other_settings() -> None:
    one = TrainConfig(data="d", run="r")
    other = TrainConfig(data="e", run="s", jit_compile="on", keep_every=2, strategy="single", shard_by="file")
    assert one.settings() == other.settings()
    assert one.settings() != TrainConfig(data="d", run="r", seed=1).settings()
    assert one.settings()["roll_s"] == 2.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "huge"}, "preset='huge' is unknown; use one of sequence, compact"),
        ({"latent": 0}, "latent=0 is out of range"),
        ({"latent": "many"}, "latent='many' is not a size; use a number such as 16, or STEPSxCHANNELS"),
        ({"learning_rate": 2.0}, "learning_rate=2.0 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"schedule": "linear"}, "schedule='linear' is unknown; use one of cosine, constant"),
        ({"run": 3}, "run=3 has the wrong type"),
        ({"run": "s3://bucket/run"}, "must be a local folder"),
        ({"cache": "s3://bucket/cache"}, "must be a local folder"),
        ({"data_service": "localhost:5050"}, "use grpc://HOST:PORT"),
        ({"augment": {"roll_s": 1.0}}, "augment=.* has the wrong type; use an AugmentConfig"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**{"data": "d", "run": "r", **settings})
