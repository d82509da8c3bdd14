"""`tfpipe bench`: how fast tfpipe is on this machine, as ratios that one run measures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.cli.examples import add_examples
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from tfpipe.bench.compare import Result

HELP = "measure speed, as ratios to named baselines and limits in one run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one sub-command for each thing that is measured."""
    add_examples(parser, "tfpipe bench train data")
    benches = parser.add_subparsers(dest="name", required=True, metavar="BENCHMARK")

    preprocess = _bench(benches, "preprocess", "the preprocessing job beside a plain loop", rounds=3)
    preprocess.add_argument("inputs", nargs="*", metavar="INPUT", help="recordings (default: some are synthesised)")
    preprocess.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes to compare with one (default %(default)s)"
    )

    plan = _bench(benches, "plan", "planning a large corpus, without audio", rounds=1)
    plan.add_argument(
        "--tracks",
        type=int,
        nargs="+",
        default=[1000, 10_000],
        metavar="N",
        help="sizes of corpora (default 1000 10000)",
    )
    plan.add_argument("--labels", type=int, default=100, metavar="N", help="labels of a corpus (default %(default)s)")
    plan.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default %(default)s)")

    for name, text, rounds in (
        ("input", "reading a dataset beside the limit of the disk", 3),
        ("train", "training steps beside the notebook's Keras code", 10),
    ):
        bench = _bench(benches, name, text, rounds=rounds)
        bench.add_argument("data", nargs="?", type=Path, metavar="DATA", help="dataset folder (default: one is made)")

    serve = _bench(benches, "serve", "the server beside the model called directly", rounds=3)
    serve.add_argument("model", type=Path, metavar="MODEL_DIR", help="folder of an exported model")

    gpu = benches.add_parser(
        "gpu",
        help="training on this machine's GPU",
        description="Prints one JSON line: examples/s and TFLOP/s of the presets notebook and sequence in float32 and "
        "in mixed precision, with and without XLA, and the share of its time that training waits for input.",
    )
    gpu.add_argument("data", nargs="?", type=Path, metavar="DATA", help="dataset folder (default: one is made)")
    gpu.add_argument("--batch-size", type=int, default=64, metavar="N", help="examples in a step (default %(default)s)")
    gpu.add_argument("--cpu", action="store_true", help="try the measurement itself with a small model on the CPU")


def run(args: argparse.Namespace) -> int:
    """Prints one line for each result.

    Raises:
        UsageError: an option is out of range.
        TfpipeError: there is no GPU, no dataset or no model.
    """
    if args.name == "gpu":
        return _gpu(args)
    results = _BENCHES[args.name](args)
    if args.json:
        print(json.dumps({"bench": args.name, "results": [dataclasses.asdict(result) for result in results]}))
    else:
        print(_table(results))
    return 0


def _bench(benches: Any, name: str, text: str, *, rounds: int) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = benches.add_parser(name, help=text, description=f"Measures {text}.")
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help="how often everything is timed (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    return parser


def _preprocess(args: argparse.Namespace) -> Sequence[Result]:
    logging.disable(logging.WARNING)  # Beam warns about optional parts that are not used here
    try:
        from tfpipe.bench.preprocess import bench_preprocess
        from tfpipe.testing.synthesis import synthesise

        with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
            if not args.inputs:
                synthesise(Path(folder))
            return bench_preprocess(args.inputs or [folder], rounds=args.rounds, workers=args.workers)
    finally:
        logging.disable(logging.NOTSET)


def _plan(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.plan import bench_plan

    return bench_plan(args.tracks, labels=args.labels, workers=args.workers, rounds=args.rounds)


def _input(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.input import bench_input

    return bench_input(args.data, rounds=args.rounds)


def _train(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.training import bench_train

    return bench_train(args.data, rounds=args.rounds)


def _serve(args: argparse.Namespace) -> Sequence[Result]:
    from tfpipe.bench.serving import bench_serve

    return bench_serve(args.model, rounds=args.rounds)


def _gpu(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise UsageError(f"--batch-size {args.batch_size}: use a whole number, at least 1")
    from tfpipe.bench.gpu import bench_gpu

    print(json.dumps(bench_gpu(args.data, batch_size=args.batch_size, cpu=args.cpu)))
    return 0


def _table(results: Sequence[Result]) -> str:
    rows, width = [], max(len(result.name) for result in results)
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:8.2f} x {result.against}"
        rows.append(f"{result.name:<{width}} {result.value:12,.1f} {result.unit:<12}{ratio}".rstrip())
    return "\n".join(rows)


_BENCHES: dict[str, Callable[[argparse.Namespace], Sequence[Result]]] = {
    "preprocess": _preprocess,
    "plan": _plan,
    "input": _input,
    "train": _train,
    "serve": _serve,
}
