"""Settings of the augmentation: what is on, and values that are refused."""

from __future__ import annotations

import pytest

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec(n_mels=40, window_s=1.0)


def test_everything_is_off_by_default_and_what_is_on_is_named() -> None:
    assert AugmentConfig().on == ()
    assert AugmentConfig(masks=3).on == ()
    assert AugmentConfig(mixup=0.2, freq_mask=16).on == ("freq_mask", "mixup")


def test_values_at_the_ends_of_the_range_are_accepted() -> None:
    AugmentConfig(freq_mask=2, time_mask=2, masks=16, roll_s=60.0, gain_db=80.0, mixup=100.0).check(SPEC)
    AugmentConfig(freq_mask=40, time_mask=44, masks=1, roll_s=0.024, mixup=0.01).check(SPEC)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freq_mask": 1}, "freq_mask=1 is out of range; use 0 .off., or 2"),
        ({"freq_mask": True}, "freq_mask=True"),
        ({"time_mask": -3}, "time_mask=-3"),
        ({"time_mask": 2.5}, "time_mask=2.5"),
        ({"masks": 0}, "masks=0"),
        ({"masks": 17}, "masks=17"),
        ({"roll_s": -0.1}, "roll_s=-0.1"),
        ({"roll_s": "0.1"}, "roll_s='0.1'"),
        ({"gain_db": float("nan")}, "gain_db=nan"),
        ({"mixup": -1.0}, "mixup=-1.0"),
        ({"mixup": 0.001}, "mixup=0.001"),
        ({"mixup": 101.0}, "mixup=101.0"),
        ({"freq_mask": 41}, "freq_mask=41 .* at most the 40 bands"),
        ({"time_mask": 45}, "time_mask=45 .* at most the 44 frames"),
        ({"roll_s": 0.001}, "roll_s=0.001 .* one frame .0.023 s"),
        ({"roll_s": float("nan")}, "roll_s=nan"),
        ({"gain_db": 81.0}, "gain_db=81.0 .* range of 80 dB"),
    ],
)
def test_bad_settings_name_the_value_and_the_fix(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AugmentConfig(**values).check(SPEC)
