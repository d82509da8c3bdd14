"""`tfpipe doctor`: what is installed, what works, what is wrong."""

from __future__ import annotations

import argparse
import json
import sys

HELP = "show versions, devices and which features load; name what is wrong and the fix"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the report; 1 when something needed is broken, else 0."""
    from tfpipe import doctor

    print("tfpipe doctor: trying out the libraries, up to a minute ...", file=sys.stderr, flush=True)
    report = doctor.diagnose()
    print(json.dumps(report) if args.json else doctor.render(report))
    return int(any(problem["broken"] for problem in report["problems"]))
