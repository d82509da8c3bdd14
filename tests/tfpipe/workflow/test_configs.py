"""Configs from one flat set of keywords."""

from pathlib import Path

import pytest

from tfpipe.errors import UsageError
from tfpipe.workflow import configs


def test_settings_of_the_job_and_of_the_features_go_where_they_belong():
    config = configs.preprocess_config(Path("in"), Path("out"), {"semitones": (0,), "n_mels": 64})
    assert (config.inputs, config.output) == (("in",), "out")
    assert config.semitones == (0,)
    assert config.spec.n_mels == 64


def test_an_augmentation_that_is_not_given_keeps_the_value_of_the_preset():
    plain = configs.train_config("data", "run", {"preset": "compact"})
    config = configs.train_config("data", "run", {"preset": "compact", "gain_db": 6.0})
    assert plain.augment is not None
    assert config.augment is not None
    assert config.augment.gain_db == 6.0
    assert config.augment.roll_s == plain.augment.roll_s > 0


def test_settings_of_a_whole_chain_are_parted():
    assert configs.parted({"chords": (), "hop": 256, "latent": 8, "roll_s": 1.0}) == (
        {"chords": (), "hop": 256},
        {"latent": 8, "roll_s": 1.0},
    )


@pytest.mark.parametrize("name", ["latnet", "overwrite", "output", "data"])
def test_an_unknown_setting_is_named_with_those_that_exist(name):
    with pytest.raises(UsageError, match=f"{name}.*use .*latent"):
        configs.parted({name: 1})
