"""`tfpipe bench gpu`: how fast the GPU trains, in every precision, with and without XLA."""

from __future__ import annotations

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
    """Returns the floating-point operations of one training step, per example.

    Counts convolutions and dense layers: a multiplication and an addition for each weight at each place.
    The gradient of the inputs and that of the weights each cost as much as the forward pass, so the total
    is three times the forward pass.
    """
    return 3.0 * sum(_forward(layer) for part in models for layer in part.layers)


def check(
    data: Path, *, presets: tuple[str, ...], batch_size: int, rounds: int = 5, steps: int = 100
) -> dict[str, Any]:
    """Measures training on this machine's GPU, or on its CPU if TensorFlow sees no GPU.

    Args:
        data: dataset folder; its training examples are repeated as often as needed.
        presets: names of the presets to train.
        batch_size: examples in a step.
        rounds: how often each variant is timed; the median is reported.
        steps: training steps in one timing.

    Returns:
        The object that `tfpipe bench gpu` prints.

    Raises:
        TfpipeError: the dataset cannot be read.
    """
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    auto = precision.resolve("auto")
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-gpu-") as name:
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
                    # If `auto` chooses float32 here, mixed_bfloat16 is measured beside it all the same.
                    policies=("float32", "mixed_bfloat16" if auto == "float32" else auto),
                    rounds=rounds,
                    steps=steps,
                )
                for preset in presets
            },
        }


def bench_gpu(data: Path | None = None, *, batch_size: int, cpu: bool = False) -> dict[str, Any]:
    """Measures training of the presets `notebook` and `sequence` on this machine's GPU.

    Args:
        data: dataset folder; when None, recordings are synthesised and preprocessed first.
        batch_size: examples in a step.
        cpu: try the measurement itself, with a small model on the CPU.

    Returns:
        The object that `tfpipe bench gpu` prints.

    Raises:
        TfpipeError: TensorFlow sees no GPU, or there is no usable dataset.
    """
    size: dict[str, Any] = {"presets": ("notebook", "sequence"), "batch_size": batch_size}
    if cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        size = {"presets": ("tiny",), "batch_size": 4, "rounds": 1, "steps": 10}
    elif not tf.config.list_physical_devices("GPU"):
        raise TfpipeError("bench gpu: TensorFlow sees no GPU here; install the extra `gpu`, or try --cpu")
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-gpu-") as folder:
        return check(data or _made(Path(folder)), **size)


def _made(folder: Path) -> Path:
    """Returns a dataset of synthesised recordings, made by the commands that a user has."""
    corpus, data = str(folder / "corpus"), str(folder / "data")
    for command in (["synth", corpus], ["preprocess", corpus, "--output", data]):
        try:
            subprocess.run([sys.executable, "-m", "tfpipe", *command], check=True, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            raise TfpipeError(f"bench gpu: no dataset could be made (tfpipe {command[0]} failed, see above)") from error
    return folder / "data"


def _measured(
    data: Path, manifest: Manifest, settings: dict[str, Any], *, policies: tuple[str, ...], rounds: int, steps: int
) -> dict[str, Any]:
    """Measures one preset in every precision, with and without XLA; in the last precision, the wait for input too."""
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
    """Returns the floating-point operations of a layer's forward pass on one example."""
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose):
        places = math.prod(layer.input.shape[1:-1])
    elif isinstance(layer, layers.Conv1D | layers.Conv2D | layers.DepthwiseConv1D | layers.Dense):
        places = math.prod(layer.output.shape[1:-1])
    else:
        return 0.0
    return 2.0 * float(places * math.prod(layer.kernel.shape))
