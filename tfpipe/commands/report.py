"""`tfpipe report`: one HTML page with what a run learned, to look at and to listen to."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from tfpipe.cli.examples import add_examples

HELP = "write one HTML page of a run: sounds, pictures, a map of the windows, figures, settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from tfpipe.data.manifest import SPLITS

    parser.add_argument("--data", required=True, metavar="DIR", help="dataset folder, local or s3://, gs://, http://")
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--out", metavar="FILE.html", help="the page to write (default: report.html in the run folder)")
    parser.add_argument(
        "--split", choices=SPLITS, help="split that the figures are of (default: test, or the next that has windows)"
    )
    parser.add_argument(
        "--which",
        default="best",
        metavar="NAME",
        help="checkpoint: best, latest or a name such as step-00000120 (default %(default)s)",
    )
    parser.add_argument("--title", default="", metavar="TEXT", help="of the page (default: the run folder's name)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    add_examples(parser, "tfpipe report --data data --run run --out report.html")


def run(args: argparse.Namespace) -> int:
    """Measures the run, writes the page, and prints where it is."""
    from tfpipe.api import report
    from tfpipe.files.remote import require_local
    from tfpipe.process.progress import loading_tensorflow

    require_local(args.run, what="the run folder")
    require_local(args.out or "", what="the report")
    with loading_tensorflow("report"):
        importlib.import_module("tfpipe.run_report.report")
    out = Path(args.out) if args.out else None
    made = report(args.data, args.run, out=out, split=args.split, which=args.which, title=args.title)
    if args.json:
        print(json.dumps(made))
    else:
        print(
            f"{made['report']}: {made['bytes'] / 1e6:.1f} MB, {made['mapped']} windows on the map; open it in a browser"
        )
    return 0
