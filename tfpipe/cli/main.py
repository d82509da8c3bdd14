"""The `tfpipe` program: finds the module of a command, runs it, and turns an error into one line.

Each command is a module of `tfpipe.commands` with `HELP`, `add_arguments(parser)` and `run(args)`. `tfpipe --help`
imports all of them, so they import TensorFlow and other large libraries only inside their functions.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from tfpipe import __version__
from tfpipe.cli.arguments import normalised
from tfpipe.cli.examples import add_examples
from tfpipe.cli.parser import Parser, WrongUsage
from tfpipe.errors import TfpipeError, UsageError

COMMANDS = (
    "run",
    "preprocess",
    "verify",
    "inspect",
    "browse",
    "augment",
    "train",
    "train-vocoder",
    "evaluate",
    "report",
    "score",
    "export",
    "reconstruct",
    "generate",
    "continue",
    "vary",
    "interpolate",
    "encode",
    "decode",
    "studio",
    "serve",
    "client",
    "check-server",
    "data-service",
    "bench",
    "synth",
    "doctor",
    "completion",
)
# These run a model for longer than it takes to start again with large memory pages.
_RUN_A_MODEL = (
    *("run", "train", "train-vocoder", "evaluate", "report", "score", "export", "studio", "serve", "bench"),
    *("reconstruct", "generate", "continue", "vary", "interpolate", "encode", "decode"),
)
_TAKE_BEAM_OPTIONS = ("preprocess", "run")
_INTERRUPTED = 128 + signal.SIGINT
_JSON = "--json"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; without arguments, prints the help.

    With `--json`, the last line of stdout is one JSON object: the command's result or, if the command fails,
    `{"error": "...", "code": N}` with the exit code.

    Args:
        argv: arguments without the program's name; `sys.argv[1:]` when None.

    Returns:
        The exit code: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.
    """
    arguments, beam_options = _split(list(sys.argv[1:] if argv is None else argv))
    try:
        parser = _parser(arguments)
        args = parser.parse_args(normalised(arguments or ["--help"], parser))
    except WrongUsage as wrong:  # the line on stderr is there already
        if _JSON in arguments:
            _print_error(wrong.text, int(wrong.code or 2))
        return int(wrong.code or 2)
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    args.beam_options = beam_options
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return _run(args)


def entry() -> NoReturn:
    """The entry point of the program `tfpipe`: runs one command and ends the process with its exit code."""
    from tfpipe.process.exit_status import end_process
    from tfpipe.process.gc_pause import pause_while_importing_tensorflow
    from tfpipe.process.huge_pages import restart_with_huge_pages
    from tfpipe.process.lean_keras import leave_out_optional_imports

    if sys.argv[1:2] and sys.argv[1] in _RUN_A_MODEL and not {"-h", "--help"} & set(sys.argv):
        restart_with_huge_pages()
    leave_out_optional_imports()
    pause_while_importing_tensorflow()
    end_process(main())


def _run(args: argparse.Namespace) -> int:
    from tfpipe.process.terminal import coloured

    try:
        if args.beam_options and args.command not in _TAKE_BEAM_OPTIONS:
            raise UsageError(f"{args.command} takes no options after `--`; only {' and '.join(_TAKE_BEAM_OPTIONS)} do")
        return int(args.module.run(args) or 0)
    except BrokenPipeError:
        # The program that reads our output has ended, as in `| head`. Exit as other programs do then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (Exception, KeyboardInterrupt) as error:
        code, text = _told(error, args.command)
        if code is None:
            raise
        message = " ".join(text.split())
        print(f"{coloured('tfpipe:', 'red', stream=sys.stderr)} {message}", file=sys.stderr, flush=True)
        if getattr(args, "json", False):
            _print_error(message, code, details=getattr(error, "details", {}))
        return code


def _told(error: BaseException, command: str) -> tuple[int | None, str]:
    """Returns the exit code and the message of an error; no code if it is to be raised again, for its traceback."""
    from tfpipe.errors import os_error_message

    if isinstance(error, TfpipeError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, str(error) or "interrupted; run the same command again to continue"
    if isinstance(error, OSError):
        return 1, os_error_message(error, error.filename or command)
    if isinstance(error, MemoryError):
        return 1, "out of memory; use a smaller --batch-size or a machine with more memory"
    if os.environ.get("TFPIPE_DEBUG"):
        return None, ""
    text = " ".join(str(error).split())[:500]
    return 1, f"unexpected {type(error).__name__}: {text} (set TFPIPE_DEBUG=1 to see where)"


def _print_error(message: str, code: int, *, details: Mapping[str, Any] | None = None) -> None:
    """Prints the object that ends stdout when the work fails and `--json` was given."""
    with contextlib.suppress(OSError):  # nobody may be reading, and the line on stderr has told it
        print(json.dumps({**(details or {}), "error": message, "code": code}), flush=True)


def whole_parser() -> argparse.ArgumentParser:
    """Returns the parser with the options of all commands."""
    return _build(COMMANDS)


def _parser(arguments: Sequence[str]) -> Parser:
    """Builds the parser. Only the command that is called gets its options, because making them takes time."""
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    return _build((called,))


def _build(with_options: Collection[str | None]) -> Parser:
    parser = Parser(prog="tfpipe", description="From a folder of recordings to a served generative model.")
    add_examples(parser, "tfpipe run recordings --workdir work", "tfpipe train --help")
    parser.add_argument("--version", action="version", version=f"tfpipe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = _module(name)
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.set_defaults(module=module)
        if name in with_options:
            module.add_arguments(command)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"tfpipe.commands.{name.replace('-', '_')}")


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments at `--`: those after it go to Apache Beam."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    entry()
