"""`tfpipe export`: a run as a versioned SavedModel."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "write a run as the next version of a served model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder of `tfpipe train`")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="MODEL_DIR", help="model folder: --model_base_path of a server"
    )
    parser.add_argument("--which", default="best", metavar="NAME", help="checkpoint: best, latest or step-00000120")
    parser.add_argument("--json", action="store_true", help="print what was made as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Exports and reports where the version is."""
    from serving.export import export

    done = export(run=args.run, output=args.output, which=args.which)
    print(
        f"version {done.version} in {done.path}, read back and equal within {done.difference:.1g}; serve it with\n"
        f"  tfpipe serve --model_base_path {args.output} --model_name vae",
        file=sys.stderr,
    )
    if args.json:
        result = {"path": str(done.path), "version": done.version, "signatures": list(done.signatures)}
        print(json.dumps({**result, "difference": done.difference}))
    return 0
