"""Options made from the settings of a dataclass."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tfpipe.cli.options import add_settings, given, whole_numbers
from tfpipe.errors import UsageError
from tfpipe.settings import setting


def _even(text: str) -> int:
    if int(text) % 2:
        raise UsageError(f"{text} is odd; use an even number")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Config:
    place: str = setting(help="a place", metavar="DIR")
    batch_size: int = setting(16, help="examples in a batch", at_least=1)
    rate: float | None = setting(None, help="learning rate, 100% of it")
    semitones: tuple[float, ...] = setting((0, 4), help="shifts")
    names: tuple[str, ...] = setting((), help="names")
    mode: str = setting("fast", help="mode", choices=("fast", "exact"))
    folder: Path | str | None = setting(None, help="a folder")
    overwrite: bool = setting(False, help="replace")
    warm: bool = setting(True, help="warm up")
    even: int = setting(2, help="even", parse=_even)
    secret: int = setting(1, help="not shown", hidden=True)
    not_an_option: int = 5


def _parser(**how: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_settings(parser, Config, **{"required": False, **how})
    return parser


def _given(typed: str, **how: Any) -> dict:
    return given(_parser(**how).parse_args(typed.split()), Config)


def test_what_is_not_typed_is_left_to_the_dataclass():
    assert _given("") == {}


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("--batch-size 4", "batch_size", 4),
        ("--rate 0.5", "rate", 0.5),
        ("--semitones 0,7", "semitones", (0.0, 7.0)),
        ("--names a,,b", "names", ("a", "b")),
        ("--names=", "names", ()),
        ("--mode exact", "mode", "exact"),
        ("--folder x", "folder", Path("x")),
        ("--overwrite", "overwrite", True),
        ("--no-warm", "warm", False),
        ("--even 4", "even", 4),
        ("--secret 3", "secret", 3),
    ],
)
def test_values_have_the_type_of_the_field(typed, name, value):
    assert _given(typed)[name] == value


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--batch-size x", "'x' is not a whole number"),
        ("--rate fast", "'fast' is not a number"),
        ("--semitones 0,x", "'0,x' is not a list of numbers such as 0,4,7,-2.5"),
        ("--mode slow", "invalid choice: 'slow'"),
        ("--even 3", "3 is odd; use an even number"),
        ("--not-an-option 3", "unrecognized arguments"),
        ("--batch_size 3", "unrecognized arguments"),
    ],
)
def test_a_wrong_value_is_refused_with_its_fix(typed, words, capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(typed.split())
    assert words in capsys.readouterr().err


def test_help_shows_defaults_and_dashes_and_leaves_hidden_options_out():
    text = _parser().format_help()
    assert re.search(r"--names TEXT,... +names \(default none\)", text)
    for words in ("--batch-size N", "(default 16)", "(default 0,4)", "{fast,exact}", "--place DIR", "100% of it"):
        assert words in text
    assert "secret" not in text
    assert "(default" not in _parser(show_defaults=False).format_help()


def test_only_some_settings_get_an_option():
    assert "--mode" not in _parser(only=("rate",)).format_help()
    assert "--mode" not in _parser(leave_out=("mode",)).format_help()


def test_a_setting_without_a_default_must_be_given(capsys):
    with pytest.raises(SystemExit):
        _parser(required=True).parse_args([])
    assert "--place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("--overwrite", "overwrite", True),
        ("--overwrite=true", "overwrite", True),
        ("--warm=false", "warm", False),
        ("--batch_size=3", "batch_size", 3),
    ],
)
def test_server_style_is_that_of_tensorflow_model_server(typed, name, value):
    assert _given(typed, server_style=True) == {name: value}


def test_whole_numbers():
    assert whole_numbers("1,-2") == [1, -2]
    for wrong in ("", "1.5", "a", str(2**63)):
        with pytest.raises(argparse.ArgumentTypeError):
            whole_numbers(wrong)
