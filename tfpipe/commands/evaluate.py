"""`tfpipe evaluate`: held-out reconstruction error beside its baselines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpipe.commands.train import add_cache_argument

HELP = "measure a run on held-out tracks beside the mean and PCA baselines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--data", required=True, metavar="DIR", help="dataset folder, local or s3://, gs://, http://")
    add_cache_argument(parser)
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--which", default="best", metavar="NAME", help="checkpoint: best, latest or step-00000120")
    parser.add_argument("--plots", metavar="DIR", help="write reconstructions.png and samples.png there")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the figures."""
    from tfpipe.remote import require_local

    require_local(args.cache or "", what="the cache")
    from tfpipe.evaluate import evaluate

    plots, cache = (Path(place) if place else None for place in (args.plots, args.cache))
    result = evaluate(args.data, Path(args.run), split=args.split, which=args.which, plots=plots, cache=cache)
    print(json.dumps(result) if args.json else describe(result))
    return 0


def describe(result: Mapping[str, Any]) -> str:
    """Returns an evaluation as a few lines for people."""
    pca, mean = result["baselines"]["pca"], result["baselines"]["mean"]

    def share(baseline: Mapping[str, Any]) -> str:
        return f"({result['mse'] / baseline['mse']:.2f} of it)" if baseline["mse"] else "(nothing is left)"

    return "\n".join(
        [
            f"{result['split']}: {result['windows']} windows",
            f"reconstruction error (mse)  {result['mse']:.5f}",
            f"  mean spectrogram          {mean['mse']:.5f}  {share(mean)}",
            f"  PCA, {pca['components']:>4} components     {pca['mse']:.5f}  {share(pca)}",
            f"KL {result['kl']:.2f} nats, {result['active_units']} of {result['latent']} dimensions active",
        ]
    )
