"""`tfpipe export`: writes a run as a versioned SavedModel."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tfpipe.cli.examples import add_examples

HELP = "write a run as the next version of a served model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from serving.protocol.names import MODEL_NAME

    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder of `tfpipe train`")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="MODEL_DIR", help="model folder: --model_base_path of a server"
    )
    parser.add_argument(
        "--which",
        default="best",
        metavar="NAME",
        help="checkpoint: best, latest or a name such as step-00000120 (default %(default)s)",
    )
    parser.add_argument(
        "--model-name",
        default=MODEL_NAME,
        metavar="NAME",
        help="name in warm-up requests and model card (default %(default)s)",
    )
    parser.add_argument(
        "--latent-keep",
        type=int,
        metavar="N",
        help="keep the N dimensions of z that carry most information; needs --data",
    )
    parser.add_argument("--data", metavar="DIR", help="the run's dataset folder, for --latent-keep")
    parser.add_argument("--tflite", action="store_true", help="also write encode.tflite and decode.tflite")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_examples(parser, "tfpipe export --run run --output models/vae")


def run(args: argparse.Namespace) -> int:
    """Exports the run, and prints where the version is and how to serve it."""
    from tfpipe.process.progress import Steps, loading_tensorflow

    with loading_tensorflow("export"):
        from serving.export.saved_model import export
    with Steps("export") as step:
        done = export(
            run=args.run,
            output=args.output,
            which=args.which,
            model_name=args.model_name,
            keep=args.latent_keep,
            data=args.data,
            tflite=args.tflite,
            say=step,
        )
    print(
        f"version {done.version} in {done.path}, read back and equal within {done.difference:.1g}; serve it with\n"
        f"  tfpipe serve --model_base_path {args.output} --model_name {args.model_name}",
        file=sys.stderr,
    )
    if args.json:
        result = {"path": str(done.path), "version": done.version, "signatures": list(done.signatures)}
        print(json.dumps({**result, "difference": done.difference}))
    return 0
