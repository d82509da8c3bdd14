"""`tfpipe train`: train a VAE on a dataset folder, or go on with a run."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tfpipe.cli.options import add_settings, given
from tfpipe.errors import UsageError

HELP = "train the VAE on a dataset, or go on where a stopped run was"
_CHOICES = {
    "preset": ("standard", "notebook", "large", "tiny"),
    "precision": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    "strategy": ("auto", "single", "mirrored", "multiworker"),
    "schedule": ("cosine", "constant"),
    "jit_compile": ("auto", "on", "off"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "--data", metavar="DIR", help="dataset folder, from `tfpipe preprocess`, local or s3://, gs://, http://"
    )
    add_cache_argument(parser)
    parser.add_argument(
        "--data-service",
        default="",
        metavar="ADDRESS,...",
        help="parse and augment in these processes: grpc://HOST:PORT, as `tfpipe data-service start` prints them",
    )
    parser.add_argument("--run", metavar="DIR", help="run folder; made, or gone on with")
    add_training_arguments(parser)
    parser.add_argument("--summary", action="store_true", help="print the model's layers and parameters, train nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option of commands that read a dataset which may be far away."""
    parser.add_argument("--cache", default="", metavar="DIR", help="copy shards there, checked, and read the copies")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `tfpipe run` shares."""
    from tfpipe.data.augmentation import AugmentConfig

    group = parser.add_argument_group("training")
    group.add_argument("--preset", choices=_CHOICES["preset"], default="standard", help="architecture and objective")
    group.add_argument("--latent", type=int, default=16, metavar="N", help="dimensions of z (16)")
    group.add_argument("--batch-size", type=int, metavar="N", help="examples in a global batch (the preset's)")
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the data (the preset's)")
    group.add_argument("--learning-rate", type=float, metavar="X", help="Adam's peak learning rate (the preset's)")
    group.add_argument("--schedule", choices=_CHOICES["schedule"], help="learning-rate schedule (the preset's)")
    group.add_argument(
        "--patience", type=int, metavar="N", help="epochs without a better validation loss; 0 never stops"
    )
    group.add_argument(
        "--average",
        type=float,
        default=0.0,
        metavar="DECAY",
        help="judge, save and export the moving average of the weights, say 0.99; 0 is off (0)",
    )
    group.add_argument(
        "--keep-every", type=int, default=0, metavar="N", help="keep every N-th epoch's checkpoint; 0 only latest, best"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="decides weights, order and noise (0)")
    group.add_argument(
        "--on-corrupt", choices=("error", "skip"), default="error", help="what to do with damaged shards (error)"
    )
    group.add_argument(
        "--shard-by", choices=("record", "file"), default="record", help="what several workers divide (record)"
    )
    group.add_argument("--precision", choices=_CHOICES["precision"], default="auto")
    group.add_argument("--jit-compile", choices=_CHOICES["jit_compile"], default="auto", help="compile the step by XLA")
    group.add_argument("--strategy", choices=_CHOICES["strategy"], default="auto")
    group = parser.add_argument_group(
        "augmentation while training, on top of the dataset's variants (without an option, the preset decides)"
    )
    add_settings(group, AugmentConfig, show_defaults=False)


def training_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that `add_training_arguments` read: fields of `TrainConfig` and of `AugmentConfig`."""
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.training.config import TrainConfig

    places = ("data", "run", "cache", "data_service")
    training = {name: value for name, value in given(args, TrainConfig).items() if name not in places}
    return {**training, **given(args, AugmentConfig)}


def run(args: argparse.Namespace) -> int:
    """Trains, or prints the model summary."""
    if args.summary:
        return _summary(args)
    if not args.data or not args.run:
        raise UsageError("train needs --data DIR and --run DIR")
    from tfpipe.training.run_folder import finished
    from tfpipe.workflow.configs import train_config

    reading = {"cache": args.cache, "data_service": args.data_service}
    config = train_config(args.data, args.run, {**reading, **training_settings(args)})
    if (result := finished(config)) is not None:
        print(f"{args.run}: already trained with these settings; nothing to do", file=sys.stderr)
    else:
        from tfpipe.training.loop import train

        result = train(config)
    best = dict(result.best)
    if args.json:
        print(json.dumps({"run": str(result.path), "epochs": len(result.history), "best": best}))
    else:
        error = best.get("val_mse", best["mse"])
        print(f"{result.path}: {len(result.history)} epochs, best at {best['epoch']} with mse {error:.5f}")
    return 0


def _summary(args: argparse.Namespace) -> int:
    from tfpipe.data.manifest import load_manifest
    from tfpipe.model import networks
    from tfpipe.spec import FeatureSpec

    spec = load_manifest(args.data).spec if args.data else FeatureSpec()
    models = networks.build(args.preset, spec, latent=args.latent)
    for part in models:
        part.summary(line_length=100, print_fn=print)
    counts = {part.name: part.count_params() for part in models}
    total = sum(counts.values())
    print(json.dumps({**counts, "total": total}) if args.json else f"total parameters: {total:,}")
    return 0
