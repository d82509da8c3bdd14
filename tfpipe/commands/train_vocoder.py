"""`tfpipe train-vocoder`: trains the network that makes a run's sound clearer."""

from __future__ import annotations

import argparse
import json

from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings, given

HELP = "train a vocoder for a run on its recordings, so that what it decodes keeps more of the notes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from tfpipe.training.vocoder_config import VocoderConfig

    parser.add_argument("--data", required=True, metavar="DIR", help="dataset folder that the run was trained on")
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder; the vocoder becomes a part of it")
    add_settings(parser, VocoderConfig)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    add_examples(parser, "tfpipe train-vocoder --data data --run run")


def run(args: argparse.Namespace) -> int:
    """Trains the vocoder, or continues it, and prints how much it helps."""
    from tfpipe.files.remote import require_local
    from tfpipe.training.vocoder_config import VocoderConfig
    from tfpipe.workflow.vocoder import train_vocoder

    require_local(args.run, what="the run folder")
    best = train_vocoder(args.data, args.run, **given(args, VocoderConfig))
    if args.json:
        print(json.dumps({"run": args.run, **best}))
    else:
        print(
            f"{args.run}: vocoder best at step {best['step']}: error of the magnitudes {best['val_loss']:.4f}, without "
            f"it {best['without']:.4f}; export the run again to use it"
        )
    return 0
