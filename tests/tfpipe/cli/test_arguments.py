"""What people type is taken as they mean it."""

import argparse
from pathlib import Path

import pytest

from tfpipe.cli.arguments import normalised
from tfpipe.cli.main import main


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command")
    inner = commands.add_parser("work")
    inner.add_argument("inputs", nargs="*")
    inner.add_argument("--rest_api_port", type=int)
    inner.add_argument("--shard-mib", type=float)
    inner.add_argument("--semitones")
    inner.add_argument("--out", "-o")
    inner.add_argument("--json", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("--rest-api-port 5", "rest_api_port", 5),
        ("--rest_api_port=5", "rest_api_port", 5),
        ("--shard_mib 2", "shard_mib", 2.0),
        ("--semitones -12,0", "semitones", "-12,0"),
        ("--semitones=-12,0", "semitones", "-12,0"),
        ("--out=~/x", "out", str(Path.home() / "x")),
        ("--out ~/x", "out", str(Path.home() / "x")),
        ("~/a b", "inputs", [str(Path.home() / "a"), "b"]),
        ("--json a-b_c", "inputs", ["a-b_c"]),
    ],
)
def test_meant_and_typed(parser, typed, name, value):
    arguments = normalised(["work", *typed.split()], parser)
    assert getattr(parser.parse_args(arguments), name) == value


def test_what_is_wrong_stays_wrong(parser, capsys):
    for typed in (["work", "--nothing"], ["work", "--json", "-5x"], ["work", "--semitones"]):
        with pytest.raises(SystemExit):
            parser.parse_args(normalised(typed, parser))
    assert "--nothing" in capsys.readouterr().err


def test_the_command_forgives(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert main(["preprocess", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--semitones", "-7,0"]) == 1
    assert "-7" in capsys.readouterr().err.splitlines()[-1]  # the spectral engine has no data for it
