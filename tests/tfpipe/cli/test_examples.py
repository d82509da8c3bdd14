"""The examples at the end of a command's help."""

import re
import shlex

import pytest

from tfpipe.cli.arguments import normalised
from tfpipe.cli.main import COMMANDS, _parser, main

ACTIONS = ("encode", "decode", "reconstruct", "generate", "continue", "vary", "interpolate", "status")


def examples(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    *_, shown = re.split(r"\nexamples?:\n", capsys.readouterr().out)
    return [line.strip() for line in shown.splitlines()]


@pytest.mark.parametrize("command", [*COMMANDS, *(f"client {action}" for action in ACTIONS)])
def test_every_help_ends_with_examples_that_are_understood(command, capsys):
    lines = examples(command, capsys)
    assert len(lines) >= (3 if command in ("serve", "client", "check-server") else 1)
    for line in lines:
        program, *arguments = shlex.split(line.partition(" > ")[0])
        assert program == "tfpipe"
        parser = _parser(arguments)
        args = parser.parse_args(normalised(arguments, parser))
        assert " ".join([args.command, *(part for part in command.split()[1:] if part == args.action)]) == command
        assert not getattr(args, "unknown_flags", [])


def test_an_example_runs(target, capsys):
    line = examples("client", capsys)[0]
    assert main(shlex.split(re.sub(r"\S+:8500", target, line))[1:]) == 0
    assert "AVAILABLE" in capsys.readouterr().err


def test_the_words_before_the_examples_are_broken_into_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["serve", "--help"])
    words, _, shown = capsys.readouterr().out.partition("\nexamples:\n")
    assert "All flags of tensorflow_model_server" in words
    assert max(map(len, words.splitlines())) <= 80
    assert max(map(len, shown.splitlines())) > 80


def test_an_option_is_not_broken_at_its_dash(capsys, monkeypatch):
    for columns in range(50, 90):
        monkeypatch.setenv("COLUMNS", str(columns))
        main(["data-service", "--help"])
        assert "--data-service`" in capsys.readouterr().out
