"""`tfpipe doctor`: what is installed, what works, what is wrong."""

from __future__ import annotations

import argparse
import json
import sys

from tfpipe.cli.examples import add_examples

HELP = "show what is installed, what works, what is wrong and how to fix it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_examples(parser, "tfpipe doctor")


def run(args: argparse.Namespace) -> int:
    """Prints the report. Returns 1 if something that tfpipe needs is broken, else 0."""
    from tfpipe.doctor import report

    print("tfpipe doctor: trying out the libraries, up to a minute ...", file=sys.stderr, flush=True)
    found = report.diagnose()
    print(json.dumps(found) if args.json else report.render(found))
    return int(any(problem["broken"] for problem in found["problems"]))
