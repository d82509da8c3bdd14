"""The examples at the end of a command's help."""

import re
import shlex

import pytest

from tfpipe.cli.arguments import normalised
from tfpipe.cli.main import _parser, main


def examples(command, capsys):
    assert main([command, "--help"]) == 0
    _, _, shown = capsys.readouterr().out.partition("\nexamples:\n")
    assert shown, "the help has examples"
    return [line.strip() for line in shown.splitlines()]


@pytest.mark.parametrize("command", ["serve", "client", "check-server"])
def test_every_example_is_a_command_line_that_is_understood(command, capsys):
    lines = examples(command, capsys)
    assert len(lines) >= 3
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "tfpipe"
        parser = _parser(arguments)
        args = parser.parse_args(normalised(arguments, parser))
        assert args.command == command
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
