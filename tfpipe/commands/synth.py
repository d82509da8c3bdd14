"""`tfpipe synth`: synthesises a small corpus of piano and voice."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tfpipe.cli.examples import add_examples

HELP = "synthesise a small corpus of piano and voice, for demos and tests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from tfpipe.testing import SECONDS, TRACKS

    parser.add_argument("output", type=Path, metavar="OUT", help="folder that gets Piano/ and Voice/")
    parser.add_argument(
        "--tracks", type=int, default=TRACKS, metavar="N", help="tracks of each label (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help="length of a track in s (default %(default)g)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="K",
        help="a different seed gives a different corpus (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the paths as one JSON object")
    add_examples(parser, "tfpipe synth corpus --tracks 4")


def run(args: argparse.Namespace) -> int:
    """Writes the corpus."""
    from tfpipe.testing.synthesis import synthesise

    paths = synthesise(args.output, tracks_per_label=args.tracks, seconds=args.seconds, seed=args.seed)
    print(f"{len(paths)} tracks of {args.seconds:g} s in {args.output}", file=sys.stderr)
    if args.json:
        print(json.dumps({"output": str(args.output), "tracks": [str(path) for path in paths]}))
    return 0
