"""Writes encoder and decoder for TensorFlow Lite, and compares them with the signatures (needs TensorFlow)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.errors import ServingError
from tfpipe.files.storage import write_bytes
from tfpipe.training.trained_model import TrainedModel

# Largest difference allowed. It is not zero because TensorFlow Lite's kernels sum in another order.
_TOLERANCE = 1e-3


def write_tflite(model: TrainedModel, functions: Mapping[str, Callable[..., Any]], folder: Path) -> None:
    """Writes the signatures `encode` and `decode` as `encode.tflite` and `decode.tflite`, for batches of any size.

    Args:
        model: gives the sizes of the inputs.
        functions: signatures by name.
        folder: folder to write into.

    Raises:
        ServingError: the outputs of a converted model differ from those of its signature.
    """
    rng = np.random.default_rng(0)
    owner = tf.Module()
    owner.parameters = [variable.value for variable in (*model.encoder.variables, *model.decoder.variables)]
    inputs = {
        "encode": {"mel": rng.uniform(size=(3, *model.spec.mel_shape)).astype(np.float32)},
        "decode": {"z": rng.standard_normal((3, model.latent)).astype(np.float32)},
    }
    for name, feeds in inputs.items():
        function: Any = functions[name]
        converted = _convert(function, owner)
        expected = {alias: tensor.numpy() for alias, tensor in function(**feeds).items()}
        difference = _difference(_run(converted, feeds), expected)
        if not difference <= _TOLERANCE:
            raise ServingError(
                f"{name}.tflite differs from its signature by {difference:.2g} (allowed {_TOLERANCE:g}); "
                "nothing was exported: export without TensorFlow Lite"
            )
        write_bytes(folder / f"{name}.tflite", converted)


def _convert(function: Any, owner: tf.Module) -> bytes:
    """Converts a tf.function; `owner` holds the variables that it uses."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], owner)
    return bytes(converter.convert())


def _run(converted: bytes, feeds: Mapping[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces that the interpreter moves to another package
        interpreter = tf.lite.Interpreter(model_content=converted)
    runner = interpreter.get_signature_runner("serving_default")
    return dict(runner(**feeds))


def _difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Returns the largest absolute difference; it is infinite if names or shapes of outputs differ."""
    if actual.keys() != expected.keys() or any(actual[name].shape != expected[name].shape for name in expected):
        return float("inf")
    return max(float(np.abs(actual[name] - expected[name]).max()) for name in expected)
