"""`tfpipe evaluate`: measures a run on held-out tracks, beside baselines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpipe.cli.options import add_settings

HELP = "measure a run on held-out tracks, beside the mean spectrogram, PCA and, if asked, another run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from tfpipe.training.config import TrainConfig

    parser.add_argument("--data", required=True, metavar="DIR", help="dataset folder, local or s3://, gs://, http://")
    add_settings(parser, TrainConfig, only=("cache",))
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--which", default="best", metavar="NAME", help="checkpoint: best, latest or step-00000120")
    parser.add_argument(
        "--against", metavar="DIR", help="another run, measured on the same windows, such as one of the preset notebook"
    )
    parser.add_argument("--plots", metavar="DIR", help="folder for reconstructions.png and samples.png")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the figures."""
    from tfpipe.files.remote import require_local

    require_local(args.cache or "", what="the cache")
    from tfpipe.evaluation.evaluate import evaluate

    against, plots, cache = (Path(place) if place else None for place in (args.against, args.plots, args.cache))
    result = evaluate(
        args.data, Path(args.run), split=args.split, which=args.which, against=against, plots=plots, cache=cache
    )
    print(json.dumps(result) if args.json else describe(result))
    return 0


def describe(result: Mapping[str, Any]) -> str:
    """Returns an evaluation as text for people."""
    from tfpipe.workflow.report import pca_name

    def row(name: str, baseline: Mapping[str, Any]) -> str:
        share = f"{result['mse'] / baseline['mse']:.2f} of it" if baseline["mse"] else "which is 0"
        return f"  {name:<24}  {baseline['mse']:.5f}  ({share})"

    baselines = dict(result["baselines"])
    mean, pca = baselines.pop("mean"), baselines.pop("pca")
    carries = f"KL {result['kl']:.2f} nats, {result['active_units']} of {result['latent']} dimensions active"
    dead = ", ".join(map(str, result["dead"]))
    return "\n".join(
        [
            f"{result['split']}: {result['windows']} windows",
            f"{'reconstruction error (mse)':<26}  {result['mse']:.5f}",
            row("mean spectrogram", mean),
            row(pca_name(pca), pca),
            *(row(f"{name}, {other['run']}", other) for name, other in baselines.items()),
            f"{carries}; dead: {dead}" if dead else carries,
        ]
    )
