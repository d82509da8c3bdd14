"""Settings as dataclass fields: what `check` stores and what it refuses, and in which words."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfpipe.errors import UsageError
from tfpipe.settings import allowed, check, setting


@dataclass(frozen=True, kw_only=True)
class Config:
    data: str = setting(help="folder")
    latent: int = setting(16, help="dimensions of z", metavar="N", at_least=1, at_most=4096)
    rate: float | None = setting(None, help="learning rate", above=0, at_most=1)
    decay: float = setting(0.0, help="decay", at_least=0, below=1)
    kind: str = setting("a", help="kind", choices=("a", "b"))
    on: bool = setting(False, help="switch")
    inputs: tuple[str, ...] = setting((), help="files")
    steps: tuple[float, ...] = setting((0,), help="semitones", at_least=-24, at_most=24)
    free: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)


def test_metadata_holds_what_was_said_of_the_setting():
    latent = next(item for item in fields(Config) if item.name == "latent")
    assert latent.metadata == {
        **{"help": "dimensions of z", "metavar": "N", "choices": None, "parse": None, "hidden": False, "flag": None},
        **{"at_least": 1, "above": None, "at_most": 4096, "below": None},
    }


def test_paths_become_text_and_single_values_become_tuples():
    loose: dict[str, Any] = {"data": Path("d"), "inputs": Path("in"), "steps": [0, 4.5]}
    config = Config(**loose)
    assert (config.data, config.inputs, config.steps) == ("d", ("in",), (0, 4.5))
    single: dict[str, Any] = {"steps": 4}
    assert Config(data="d", **single).steps == (4,)


def test_numpy_numbers_become_plain_ones_and_whole_numbers_stay_whole():
    numbers: dict[str, Any] = {"latent": np.int64(3), "rate": np.float32(0.5), "decay": 0}
    config = Config(data="d", **numbers)
    assert [type(value) for value in (config.latent, config.rate, config.decay)] == [int, float, int]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent": 0}, "latent=0 is out of range; use a whole number, at least 1 and at most 4096"),
        ({"latent": "16"}, r"latent='16' has the wrong type \(str\); use a whole number"),
        ({"latent": True}, "wrong type"),
        ({"latent": 1.5}, "wrong type"),
        ({"rate": 0.0}, "rate=0.0 is out of range; use a number or None, above 0 and at most 1"),
        ({"rate": float("nan")}, "rate=nan is out of range"),
        ({"decay": 1.0}, "decay=1.0 is out of range; use a number, at least 0 and below 1"),
        ({"kind": "c"}, "kind='c' is unknown; use one of a, b"),
        ({"kind": None}, "kind=None has the wrong type"),
        ({"on": 1}, "on=1 has the wrong type .*True or False"),
        ({"data": 3}, r"data=3 has the wrong type \(int\); use text"),
        ({"steps": (0, 30)}, "steps=30 is out of range; use a list whose elements are each a number, at least -24"),
        ({"steps": "4"}, "steps='4' has the wrong type"),
    ],
)
def test_values_that_cannot_be_used_are_refused_with_the_fix(values, message):
    with pytest.raises(UsageError, match=f"^{message}" if "=" in message else message):
        Config(**{"data": "d", **values})


def test_a_range_can_be_read_in_words():
    assert allowed(Config, "decay") == "a number, at least 0 and below 1"
