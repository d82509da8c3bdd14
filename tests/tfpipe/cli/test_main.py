"""The program: how errors end it, and what its help shows."""

import argparse
import importlib
import json
import re
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


def test_without_arguments_the_help_is_shown(capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: tfpipe COMMAND")
    assert "train-vocoder" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("trian", "tfpipe: error: unknown command 'trian'; did you mean 'train'?"),
        ("zzzz", "tfpipe: error: unknown command 'zzzz'; see --help"),
        ("train --epoch-s 3", "tfpipe train: error: unrecognized option --epoch-s; did you mean --epochs?"),
        ("train --qqqq", "tfpipe train: error: unrecognized option --qqqq; see --help"),
        # The option that is missing is the one that is misspelt.
        ("preprocess in --ouput x", "unrecognized option --ouput; did you mean --output?"),
        ("client generat --out x", "tfpipe client: error: unknown action 'generat'; did you mean 'generate'?"),
        ("client status --sever x", "tfpipe client status: error: unrecognized option --sever; did you mean --server?"),
        ("synth out more -x", "unrecognized arguments: more -x"),
        ("--verson", "tfpipe: error: unrecognized option --verson; did you mean --version?"),
    ],
)
def test_what_is_misspelt_gets_the_nearest_name(typed, words, capsys):
    assert main(typed.split()) == 2
    said = capsys.readouterr()
    assert words in said.err.splitlines()[-1]
    assert said.err.startswith("usage: tfpipe ")
    assert said.out == ""


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("export --run nowhere --output out --json", 1, "nowhere"),  # the work
        ("inspect --json nowhere --augmented", 2, "--augmented"),  # a value, found by the command
        ("train --json --epoch-s 3", 2, "did you mean --epochs?"),  # the parser
        ("trian --json", 2, "unknown command 'trian'"),
    ],
)
def test_with_json_an_error_ends_stdout_with_one_object(typed, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(typed.split()) == code
    said = capsys.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    assert told.keys() == {"error", "code"}
    assert told["code"] == code
    assert words in told["error"]
    assert said.err.splitlines()[-1].endswith(told["error"])


def test_without_json_an_error_leaves_stdout_empty(capsys):
    assert main(["inspect", "nowhere"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("train", "tfpipe train --data DIR --run DIR [options]"),
        ("run", "tfpipe run INPUT ... --workdir DIR [options]"),
        ("serve", "tfpipe serve --model_base_path MODEL_DIR [options]"),
        ("check-server", "tfpipe check-server [HOST:PORT] [options]"),
        ("client generate", "tfpipe client generate --out DIR --server HOST:PORT [options]"),
        ("bench preprocess", "tfpipe bench preprocess [INPUT ...] [options]"),
    ],
)
def test_the_usage_line_is_short_and_required_options_come_first(command, usage, capsys):
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {usage}\n\n")
    required, _, options = shown.partition("\noptions:\n")
    for option in re.findall(r"--\w+ ", usage):
        assert f"\n  {option}" in required.partition("\nrequired options:")[2]
        assert f"\n  {option}" not in options


def test_the_help_of_train_has_the_default_of_each_preset(capsys):
    main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "(default 40; notebook: 50, large: 100, tiny: 10)",
        "(default 16; notebook: 10, large: 64)",
        "(default 27x96; compact: 16, notebook: 16, tiny: 27x16)",
        "(default 0.002; compact: 0.001,",
        "(default: 10 passes over the windows, but 900 to 50000 steps; large: 60",
        "Without one of these options: --roll-s 2.5; notebook: none, tiny: none.",
    ):
        assert words in shown
    assert "the preset's)" not in shown
