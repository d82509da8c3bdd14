"""`tfpipe completion`: the script with which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse

from tfpipe.cli.examples import add_examples
from tfpipe.errors import TfpipeError

HELP = "print the script with which bash, zsh or fish completes commands and options"
_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    add_examples(
        parser,
        "tfpipe completion bash > ~/.local/share/bash-completion/completions/tfpipe",
        "tfpipe completion zsh > ~/.zfunc/_tfpipe",
        "tfpipe completion fish > ~/.config/fish/completions/tfpipe.fish",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the script.

    Raises:
        TfpipeError: shtab, which writes the script, is not installed.
    """
    from tfpipe.cli.main import whole_parser

    try:
        import shtab
    except ImportError:
        raise TfpipeError("completion needs the package shtab; install it with `pip install shtab`") from None
    print(shtab.complete(whole_parser(), args.shell))
    return 0
