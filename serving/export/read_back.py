"""Loads a SavedModel with TensorFlow alone and compares its outputs with reference outputs.

`serving.export.saved_model` runs this file as a script, and closes its standard input when the model is written. The
script must import nothing of this project, because a model server cannot either. It prints the largest difference and
its output as JSON, and fails if an op is not TensorFlow's own.
"""

from __future__ import annotations

import base64
import gc
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # import TensorFlow in half the time; see tfpipe.process.lean_keras and gc_pause
    gc.disable()
    sys.modules.update({"matplotlib": None, "sklearn": None})  # type: ignore[dict-item]  # None counts as missing

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry


def compare(saved_model: str, reference: str) -> tuple[float, str]:
    """Runs every signature on the reference inputs.

    Args:
        saved_model: folder of the SavedModel.
        reference: npz with arrays named `SIGNATURE/in/ALIAS` and `SIGNATURE/out/ALIAS`; strings are base64.

    Returns:
        The largest absolute difference, and the output that has it, as `SIGNATURE/ALIAS`.
    """
    loaded = tf.saved_model.load(saved_model)
    calls: dict[str, dict[str, dict[str, Any]]] = {}
    with np.load(reference) as arrays:
        for key in arrays.files:
            name, side, alias = key.split("/")
            calls.setdefault(name, {"in": {}, "out": {}})[side][alias] = _strings(arrays[key])
    worst = (0.0, "no output")
    for name, call in calls.items():
        outputs = loaded.signatures[name](**{alias: tf.constant(array) for alias, array in call["in"].items()})
        for alias, expected in call["out"].items():
            worst = max(worst, (_difference(outputs[alias].numpy(), expected, alias=alias), f"{name}/{alias}"))
    return worst


def ops_of(saved_model: str) -> tuple[set[str], set[str]]:
    """Returns the ops in the graph of a SavedModel, and those of them that are not TensorFlow's own."""
    data = (Path(saved_model) / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0].graph_def
    functions = {function.signature.name for function in graph.library.function}
    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    ops = {node.op for node in nodes} - functions
    return ops, {op for op in ops if op_def_registry.get(op) is None}


def _strings(array: Any) -> Any:
    """Returns an array with its base64 as strings; other arrays stay as they are."""
    if array.dtype.kind != "S":
        return array
    return np.array([base64.b64decode(value) for value in array.flat] + [None], object)[:-1].reshape(array.shape)


def _difference(actual: Any, expected: Any, *, alias: str) -> float:
    """Returns how far an output is from the expected one; it is infinite if shapes or strings differ, or at a NaN.

    For numbers it is the largest absolute difference, for sounds see `_sound_difference`.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if alias == "wav_bytes":
        return max((_wav_difference(*pair) for pair in zip(actual.flat, expected.flat, strict=True)), default=0.0)
    if actual.dtype.kind == "O":
        return max((_unequal(*pair) for pair in zip(actual.flat, expected.flat, strict=True)), default=0.0)
    if alias == "audio":
        return max((_sound_difference(*pair) for pair in zip(actual, expected, strict=True)), default=0.0)
    difference = np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")


def _wav_difference(actual: bytes, expected: bytes) -> float:
    header = 44
    if len(actual) != len(expected) or actual[:header] != expected[:header]:
        return float("inf")
    return _sound_difference(*(np.frombuffer(wav, "<i2", offset=header) / 32_768.0 for wav in (actual, expected)))


def _sound_difference(actual: Any, expected: Any) -> float:
    """Returns the energy of the difference as a share of the sound's, times 1e-3.

    The phases of a sound that is made from a spectrogram follow from each other. Where it is quiet, the last digit of a
    magnitude can turn them, and processors differ in that digit. So the samples need not be equal: a tenth of the
    energy may differ where other outputs may differ by 1e-4.
    """
    whole = np.sum(np.square(expected.astype(np.float64)))
    apart = np.sum(np.square(actual.astype(np.float64) - expected))
    if not np.isfinite(apart) or (whole == 0.0 and apart > 0.0):
        return float("inf")
    return 1e-3 * float(apart / whole) if apart > 0.0 else 0.0


def _unequal(actual: bytes, expected: bytes) -> float:
    return 0.0 if actual == expected else float("inf")


if __name__ == "__main__":
    sys.stdin.read()  # ends when the model has been written, so that TensorFlow is imported in the meantime
    _, unknown = ops_of(sys.argv[1])
    if unknown:
        sys.exit(f"the graph uses ops that TensorFlow does not have: {', '.join(sorted(unknown))}")
    # Each graph runs once, and optimising it would take longer than that.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    print(json.dumps(compare(sys.argv[1], sys.argv[2])))
