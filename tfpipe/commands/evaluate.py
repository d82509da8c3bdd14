"""`tfpipe evaluate`: measures a run on held-out tracks, beside baselines, and judges it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings

HELP = "measure a run on held-out tracks: errors beside baselines, what is heard, draws from the prior, a verdict"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from tfpipe.data.manifest import SPLITS
    from tfpipe.evaluation.verdict import DRAWS
    from tfpipe.training.config import TrainConfig

    parser.add_argument("--data", required=True, metavar="DIR", help="dataset folder, local or s3://, gs://, http://")
    add_settings(parser, TrainConfig, only=("cache",))
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--split", choices=SPLITS, default="test", help="split to measure on (default %(default)s)")
    parser.add_argument(
        "--which",
        default="best",
        metavar="NAME",
        help="checkpoint: best, latest or a name such as step-00000120 (default %(default)s)",
    )
    parser.add_argument(
        "--against", metavar="DIR", help="another run, measured on the same windows, such as one of the preset notebook"
    )
    parser.add_argument("--plots", metavar="DIR", help="folder for reconstructions.png and samples.png")
    parser.add_argument(
        "--draws",
        type=int,
        default=DRAWS,
        metavar="N",
        help="windows to draw from the prior and judge; 0 leaves them out (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    add_examples(parser, "tfpipe evaluate --data data --run run --plots pictures")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the figures."""
    from tfpipe.files.remote import require_local

    require_local(args.cache or "", what="the cache")
    from tfpipe.evaluation.table import table
    from tfpipe.process.progress import loading_tensorflow

    with loading_tensorflow("evaluate"):
        from tfpipe.evaluation.evaluate import evaluate

    against, plots, cache = (Path(place) if place else None for place in (args.against, args.plots, args.cache))
    result = evaluate(
        args.data,
        Path(args.run),
        split=args.split,
        which=args.which,
        against=against,
        plots=plots,
        cache=cache,
        draws=args.draws,
        seed=args.seed,
    )
    print(json.dumps(result) if args.json else table(result))
    return 0
