"""The program: how errors end it, and what its help shows."""

import argparse
import importlib
from types import SimpleNamespace

import pytest

from tfpipe.cli import main as program
from tfpipe.cli.main import COMMANDS, main
from tfpipe.errors import TfpipeError, UsageError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("x=1 cannot\nwork"), 2, "tfpipe: x=1 cannot work"),
        (TfpipeError("no data"), 1, "tfpipe: no data"),
        (KeyboardInterrupt(), 130, "run the same command again"),
        (FileNotFoundError(2, "No such file", "there"), 1, "there"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero (set TFPIPE_DEBUG=1"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_every_error_ends_with_its_code_and_one_line(error, code, words, monkeypatch, capfd):
    def fail(args):
        raise error

    module = SimpleNamespace(HELP="fails", add_arguments=lambda parser: None, run=fail)
    monkeypatch.setattr(program, "_module", lambda name: module)
    monkeypatch.setattr(program.os, "dup2", lambda *descriptors: None)
    assert main(["doctor"]) == code
    said = capfd.readouterr().err
    assert words in said
    assert said.count("\n") == bool(words)


def test_only_the_jobs_take_options_for_beam(capsys):
    assert main(["doctor", "--", "--runner=FlinkRunner"]) == 2
    assert "only preprocess and run do" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_our_own_have_dashes(name):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"tfpipe.commands.{name.replace('-', '_')}").add_arguments(parser)
    options = set(_options(parser))
    assert options
    assert name == "serve" or not [option for option in options if "_" in option]


def _options(parser):
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
