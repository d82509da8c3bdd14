"""`scripts/gpu_check`: how fast the GPU trains, in every precision, with and without XLA, as one JSON line."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf
from keras import layers

from tfpipe.bench.compare import rates
from tfpipe.bench.input import repeated
from tfpipe.bench.training import Loop, bare_steps, new_trainer
from tfpipe.data.manifest import Manifest
from tfpipe.errors import TfpipeError
from tfpipe.model import precision
from tfpipe.model.networks import Models


def training_flops(models: Models) -> float:
    """Returns the floating-point operations of one step of training, per example.

    Those of convolutions and dense layers, a multiplication and an addition for each weight at each place.
    The gradients of inputs and of weights cost as much as the layer itself: three times forward.
    """
    return 3.0 * sum(_forward(layer) for part in models for layer in part.layers)


def check(
    data: Path, *, presets: tuple[str, ...], batch_size: int, rounds: int = 5, steps: int = 100
) -> dict[str, Any]:
    """Measures training on this machine's GPU, or its CPU where TensorFlow sees none.

    Args:
        data: dataset folder whose training examples are used, repeated.
        presets: what to train.
        batch_size: examples in a step.
        rounds: how often everything is timed; medians count.
        steps: in one timing.

    Returns:
        The object that `scripts/gpu_check` prints.

    Raises:
        TfpipeError: no usable dataset.
    """
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    auto = precision.resolve("auto")
    with tempfile.TemporaryDirectory(prefix="tfpipe-gpu-check-") as name:
        manifest = repeated(data, Path(name), batch_size * (steps + 1))
        return {
            "device": details.get("device_name", "GPU") if gpus else "CPU",
            "tensorflow": tf.__version__,
            "auto": auto,
            "batch_size": batch_size,
            "presets": {
                preset: _measured(
                    Path(name),
                    manifest,
                    {"preset": preset, "batch_size": batch_size},
                    # Where `auto` expects no gain there is still something to measure.
                    policies=("float32", "mixed_bfloat16" if auto == "float32" else auto),
                    rounds=rounds,
                    steps=steps,
                )
                for preset in presets
            },
        }


def main(arguments: list[str]) -> int:
    """Prints the JSON line; returns 1 after a sentence where there is no GPU."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=main.__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset folder; one is made when not given")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="examples in a step (64)")
    parser.add_argument("--cpu", action="store_true", help="try the check itself with a small model on the CPU")
    args = parser.parse_args(arguments)
    if args.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif not tf.config.list_physical_devices("GPU"):
        print("gpu_check: TensorFlow sees no GPU here; install the extra `gpu`, or try --cpu", file=sys.stderr)
        return 1
    size: dict[str, Any] = {"presets": ("notebook", "standard"), "batch_size": args.batch_size}
    if args.cpu:
        size = {"presets": ("tiny",), "batch_size": 4, "rounds": 1, "steps": 10}
    with tempfile.TemporaryDirectory(prefix="tfpipe-gpu-check-") as folder:
        try:
            print(json.dumps(check(args.data or _made(Path(folder)), **size)))
        except (TfpipeError, subprocess.CalledProcessError) as error:
            print(f"gpu_check: {error}", file=sys.stderr)
            return 1
    return 0


def _made(folder: Path) -> Path:
    """Returns a dataset of synthesised recordings, made by the commands that a user has."""
    corpus, data = str(folder / "corpus"), str(folder / "data")
    for command in (["synth", corpus], ["preprocess", corpus, "--output", data]):
        subprocess.run([sys.executable, "-m", "tfpipe", *command], check=True, stdout=subprocess.DEVNULL)
    return folder / "data"


def _measured(
    data: Path, manifest: Manifest, settings: dict[str, Any], *, policies: tuple[str, ...], rounds: int, steps: int
) -> dict[str, Any]:
    """Measures one preset in every precision, with and without XLA, and streaming in the last precision."""
    ways = [(policy, jit) for policy in policies for jit in ("off", "on")]
    trainers = {way: new_trainer(data, manifest, precision=way[0], jit_compile=way[1], **settings) for way in ways}
    timed = {" ".join(way): bare_steps(trainer, steps=steps) for way, trainer in trainers.items()}
    found = rates(timed, rounds=rounds, what=settings["preset"])
    flops = training_flops(trainers[ways[0]].stepper.models)
    results = []
    for way in ways:
        rate = statistics.median(found[" ".join(way)])
        name = {"precision": way[0], "jit_compile": way[1] == "on"}
        results.append({**name, "examples_per_s": round(rate, 2), "tflop_per_s": float(f"{rate * flops / 1e12:.4g}")})
    loop = Loop(trainers[policies[-1], "off"], steps=steps)
    for _ in range(rounds):
        loop.run()
    return {
        "gflop_per_example": float(f"{flops / 1e9:.4g}"),
        "steps": results,
        "input_wait": round(statistics.median(loop.waited) / 100.0, 4),
    }


def _forward(layer: layers.Layer) -> float:
    """Operations of a layer on one example, forward."""
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose):
        places = math.prod(layer.input.shape[1:-1])
    elif isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Dense):
        places = math.prod(layer.output.shape[1:-1])
    else:
        return 0.0
    return 2.0 * places * math.prod(layer.kernel.shape)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
