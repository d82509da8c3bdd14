"""`tfpipe train`: trains a model on a dataset, or continues a run that was stopped."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings, given
from tfpipe.cli.parser import REQUIRED
from tfpipe.errors import UsageError

HELP = "train a model on a dataset, or continue a run that was stopped"
# Settings that say where data is read and written; `tfpipe run` decides them itself.
_PLACES = ("data", "run", "cache", "data_service")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from tfpipe.training.config import TrainConfig

    # argparse does not require them, because --summary needs neither.
    add_settings(parser.add_argument_group(REQUIRED), TrainConfig, only=("data", "run"), required=False)
    add_settings(parser, TrainConfig, only=("cache", "data_service"))
    add_training_arguments(parser)
    parser.add_argument("--summary", action="store_true", help="print the model's layers and parameters, train nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    add_examples(parser, "tfpipe train --data data --run run --epochs 60")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `tfpipe run` has too."""
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.training.config import TrainConfig, augment_in_words

    add_settings(parser.add_argument_group("training"), TrainConfig, leave_out=_PLACES)
    group = parser.add_argument_group(
        "augmentation while training",
        f"On top of the dataset's variants. Without one of these options: {augment_in_words()}.",
    )
    add_settings(group, AugmentConfig, show_defaults=False)


def training_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that `add_training_arguments` read: fields of `TrainConfig` and of `AugmentConfig`."""
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.training.config import TrainConfig

    training = {name: value for name, value in given(args, TrainConfig).items() if name not in ("data", "run")}
    return {**training, **given(args, AugmentConfig)}


def run(args: argparse.Namespace) -> int:
    """Trains, or prints a summary of the model.

    Raises:
        UsageError: a setting is not allowed, or a folder is missing from the command line.
    """
    if args.summary:
        return _summary(args)
    if not args.data or not args.run:
        raise UsageError("train needs --data DIR and --run DIR")
    from tfpipe.training.prior_folder import best_of_prior
    from tfpipe.training.stages import finished
    from tfpipe.workflow.configs import train_config

    config = train_config(args.data, args.run, training_settings(args))
    if (result := finished(config)) is not None:
        print(f"{args.run}: already trained with these settings; nothing to do", file=sys.stderr)
    else:
        from tfpipe.process.progress import loading_tensorflow

        with loading_tensorflow("train"):
            from tfpipe.training.loop import train
        result = train(config)
    best, prior = dict(result.best), best_of_prior(result.path)
    if args.json:
        print(json.dumps({"run": str(result.path), "epochs": len(result.history), "best": best, "prior": prior}))
    else:
        error = best.get("val_mse", best["mse"])
        print(f"{result.path}: {len(result.history)} epochs, best at {best['epoch']} with mse {error:.5f}")
        if prior:
            loss = prior.get("val_loss", prior["loss"])
            print(f"{result.path}: prior best at step {prior['step']} with loss {loss:.4f}")
    return 0


def _summary(args: argparse.Namespace) -> int:
    from tfpipe.data.manifest import load_manifest
    from tfpipe.model import networks
    from tfpipe.spec import FeatureSpec
    from tfpipe.training.config import TrainConfig

    spec = load_manifest(args.data).spec if args.data else FeatureSpec()
    preset = args.preset or TrainConfig.preset
    models = networks.build(preset, spec, latent=args.latent)
    for part in models:
        part.summary(line_length=100, print_fn=print)
    counts = {part.name: part.count_params() for part in models}
    total = sum(counts.values())
    print(json.dumps({**counts, "total": total}) if args.json else f"total parameters: {total:,}")
    return 0
