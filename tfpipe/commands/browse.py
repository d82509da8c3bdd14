"""`tfpipe browse`: a page on this machine that shows and plays the examples of a dataset."""

from __future__ import annotations

import argparse

from tfpipe.cli.examples import add_examples

HELP = "open a page that shows and plays the examples of a dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("data", metavar="DIR", help="dataset folder, also s3:// or gs://")
    parser.add_argument(
        "--port", type=int, default=8601, metavar="N", help="port on 127.0.0.1 (default %(default)s; 0: a free one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")
    add_examples(parser, "tfpipe browse data")


def run(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted.

    Raises:
        DatasetError: the folder is not a complete dataset.
        UsageError: the port is in use.
    """
    from tfpipe.browse.app import make_app
    from tfpipe.browse.examples import Examples
    from tfpipe.local_page.serve import listening, names_of, serve

    examples = Examples(args.data)
    with listening(args.port) as listener:
        app = make_app(examples, hosts=names_of(listener))
        serve(app, listener, what=f"the dataset {args.data}", opens_browser=not args.no_browser)
    return 0
