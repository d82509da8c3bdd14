"""`tfpipe verify`: checks a dataset against its manifest and, if asked, examples against their recordings."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tfpipe.cli.examples import add_examples
from tfpipe.errors import DatasetError, UsageError

HELP = "check every byte of a dataset folder against its manifest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("data", metavar="DIR", help="dataset folder, also s3:// or gs://")
    parser.add_argument(
        "--deep",
        type=int,
        nargs="?",
        const=20,
        default=0,
        metavar="N",
        help="also compute N examples (20 without a number) again from the recordings and compare them",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_examples(parser, "tfpipe verify data --deep 20")


def run(args: argparse.Namespace) -> int:
    """Prints the problems of a dataset.

    Raises:
        DatasetError: there is a problem.
        UsageError: the number of examples is negative.
    """
    from tfpipe.data.manifest import load_manifest
    from tfpipe.data.verify import verify
    from tfpipe.process.progress import Progress

    if args.deep < 0:
        raise UsageError(f"--deep {args.deep}: use the number of examples to compute again, such as 20")
    folder = args.data
    manifest = load_manifest(folder)
    with Progress("verify", total=len(manifest.shards), unit="shard") as bar:
        problems = verify(folder, on_shard=lambda _: bar.update())
    deep = _deep(folder, args.deep) if args.deep and not problems else {}
    problems += deep.get("problems", [])
    for sentence in deep.get("unavailable", []):
        print(sentence, file=sys.stderr)
    result: dict[str, Any] = {"ok": not problems, "problems": problems, "fingerprint": manifest.fingerprint}
    result |= {"deep": deep} if args.deep else {}
    if problems:
        raise _refusal(result, listed=not args.json)
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{folder}: {len(manifest.shards)} shards are as the manifest says (fingerprint {manifest.fingerprint})")
    if args.deep:
        print(f"{folder}: {deep['checked']} examples are as the recordings give them")
    return 0


def _refusal(result: dict[str, Any], *, listed: bool) -> DatasetError:
    """Returns the error for a dataset with problems; `listed` prints each of them first."""
    problems = result["problems"]
    if listed:
        print("\n".join(problems))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    fix = "delete the files that are named and run `tfpipe preprocess` again"
    error = DatasetError(f"{count}: {problems[0]}; {fix}")
    error.details = result
    return error


def _deep(folder: str, count: int) -> dict[str, Any]:
    import dataclasses

    from beam_jobs.recompute import verify_deep
    from tfpipe.process.progress import Progress

    with Progress("recompute", total=count, unit="example") as bar:
        return dataclasses.asdict(verify_deep(folder, count=count, on_example=bar.update))
