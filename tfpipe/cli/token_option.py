"""The option `--token-file` of the commands that ask a server."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_token_file(parser: argparse.ArgumentParser) -> None:
    """Adds the option."""
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the token that the server asks for (default: the variable TFPIPE_AUTH_TOKEN)",
    )


def token_of(args: argparse.Namespace) -> str | None:
    """Returns the token of the file or the variable, or None if there is neither.

    Raises:
        ServingError: the file cannot be read.
        UsageError: the file or the variable holds no token.
    """
    from serving.protocol.token import read_token

    token = read_token(args.token_file)
    return token.value if token else None
