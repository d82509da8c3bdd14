"""`tfpipe studio`: a page on this machine to hear and change sounds with a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tfpipe.cli.examples import add_examples
from tfpipe.cli.parser import REQUIRED
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.client.vae import Vae

# If the server does not answer for this long, in s, the page says so.
_SERVER_S = 10.0

HELP = "open a page to draw, change, mix and keep sounds with an exported model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from serving.protocol.names import MODEL_NAME
    from tfpipe.cli.token_option import add_token_file

    which = parser.add_argument_group(REQUIRED, "one of the two").add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="MODEL_DIR", help="exported model, which this process runs")
    which.add_argument("--server", metavar="HOST:PORT", help="gRPC address of a server that runs the model")
    parser.add_argument(
        "--model-name", default=MODEL_NAME, metavar="NAME", help="the model's name on the server (default %(default)s)"
    )
    parser.add_argument(
        "--windows",
        type=Path,
        metavar="FILE",
        help="report-windows.parquet of `tfpipe report`: the map shows the corpus instead of draws",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("kept-sounds"),
        metavar="DIR",
        help="folder for the sounds that you keep (default %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8600, metavar="N", help="port on 127.0.0.1 (default %(default)s; 0: a free one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")
    add_token_file(parser)
    add_examples(
        parser,
        "tfpipe studio --model models/vae",
        "tfpipe studio --model models/vae --windows run/report-windows.parquet",
        "tfpipe studio --server localhost:8500 --keep ~/sounds",
    )


def run(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted.

    Raises:
        UsageError: the port is in use, or the folder for kept sounds is a file.
        ServingError: the model cannot be loaded, or the server cannot be reached.
    """
    from tfpipe.studio.recipes import Recipes
    from tfpipe.studio.serve import run_studio

    if args.keep.exists() and not args.keep.is_dir():
        raise UsageError(f"--keep {args.keep}: is a file; choose a folder")

    recipes = Recipes(args.server or str(args.model), is_server=bool(args.server))
    with _opened(args) as vae:
        vae.describe()
        run_studio(
            vae,
            recipes=recipes,
            port=args.port,
            keep=args.keep,
            windows=args.windows,
            opens_browser=not args.no_browser,
        )
    return 0


def _opened(args: argparse.Namespace) -> Vae:
    """Returns the model, in this process or on a server."""
    if not args.server:
        from serving.client.local_model import LocalModel

        return LocalModel(args.model)
    from serving.client.client import Client
    from tfpipe.cli.token_option import token_of

    return Client(args.server, model=args.model_name, timeout_s=_SERVER_S, token=token_of(args))
