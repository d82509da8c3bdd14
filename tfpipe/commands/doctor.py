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
    broken = [problem for problem in found["problems"] if problem["broken"]]
    failed = {"error": f"{len(broken)} of the things that tfpipe needs do not work; see `problems`", "code": 1}
    print(json.dumps({**found, **(failed if broken else {})}) if args.json else report.render(found))
    return int(bool(broken))
