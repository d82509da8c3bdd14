"""`tfpipe bench`: how fast it is, as ratios that one run measures on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from tfpipe.bench.compare import Result

HELP = "measure speed, as ratios to named baselines and limits in one run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("name", metavar="NAME", help=f"what to measure: {', '.join(BENCHES)}")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="recordings (preprocess) or dataset folder (input, train) to use, or some are made; model folder (serve)",
    )
    parser.add_argument("--rounds", type=int, help="how often everything is timed (3; train: 10)")
    parser.add_argument("--workers", type=int, default=2, help="processes to compare with one (2)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints one line per result.

    Raises:
        UsageError: nothing of that name is measured.
    """
    if args.name not in BENCHES:
        raise UsageError(f"bench {args.name!r}: there is {', '.join(BENCHES)}")
    results = BENCHES[args.name](args)
    if args.json:
        print(json.dumps({"bench": args.name, "results": [dataclasses.asdict(result) for result in results]}))
    else:
        print(_table(results))
    return 0


def _preprocess(args: argparse.Namespace) -> Sequence[Result]:
    logging.disable(logging.WARNING)  # Beam warns of parts that nobody uses here
    from tfpipe.bench.preprocess import bench_preprocess
    from tfpipe.testing.synthesis import synthesise

    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        if not args.inputs:
            synthesise(Path(folder))
        return bench_preprocess(args.inputs or [folder], rounds=_rounds(args, 3), workers=args.workers)


def _input(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.input import bench_input

    return bench_input(_dataset(args), rounds=_rounds(args, 3))


def _train(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.training import bench_train

    return bench_train(_dataset(args), rounds=_rounds(args, 10))


def _dataset(args: argparse.Namespace) -> Path | None:
    if len(args.inputs) > 1:
        raise UsageError(f"bench {args.name}: give one dataset folder, not {len(args.inputs)}")
    return Path(args.inputs[0]) if args.inputs else None


def _rounds(args: argparse.Namespace, usual: int) -> int:
    return usual if args.rounds is None else int(args.rounds)


def _serve(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.serving import bench_serve

    if len(args.inputs) != 1:
        raise UsageError("bench serve: give the folder of an exported model")
    return bench_serve(Path(args.inputs[0]), rounds=_rounds(args, 3))


def _table(results: Sequence[Result]) -> str:
    rows, width = [], max(len(result.name) for result in results)
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:8.2f} x {result.against}"
        rows.append(f"{result.name:<{width}} {result.value:12,.1f} {result.unit:<12}{ratio}".rstrip())
    return "\n".join(rows)


BENCHES: dict[str, Callable[[argparse.Namespace], Sequence[Result]]] = {
    "preprocess": _preprocess,
    "input": _input,
    "train": _train,
    "serve": _serve,
}
