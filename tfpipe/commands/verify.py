"""`tfpipe verify`: every byte of a dataset against its manifest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tfpipe.errors import DatasetError

HELP = "check every byte of a dataset folder against its manifest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("data", metavar="DIR", help="dataset folder")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Lists the problems of a dataset.

    Raises:
        DatasetError: there are some.
    """
    from tfpipe.manifest import load_manifest, verify
    from tfpipe.progress import Progress

    folder = Path(args.data)
    manifest = load_manifest(folder)
    with Progress("verify", total=len(manifest.shards), unit="shard") as bar:
        problems = verify(folder, on_shard=lambda _: bar.update())
    if args.json:
        print(json.dumps({"ok": not problems, "problems": problems, "fingerprint": manifest.fingerprint}))
    elif problems:
        print("\n".join(problems))
    else:
        print(f"{folder}: {len(manifest.shards)} shards as the manifest says (fingerprint {manifest.fingerprint})")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DatasetError(f"{count}: {problems[0]}; delete the files that are named and run `tfpipe preprocess` again")
    return 0
