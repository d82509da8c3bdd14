"""Loads a SavedModel with TensorFlow alone and compares its outputs with reference outputs.

`serving.export.saved_model` runs this file as a script. It must import nothing of this project, because a model server
cannot either. It prints the largest difference and its output as JSON, and fails if an op is not TensorFlow's own.
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
            worst = max(
                worst, (_difference(outputs[alias].numpy(), expected, is_wav=alias == "wav_bytes"), f"{name}/{alias}")
            )
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


def _difference(actual: Any, expected: Any, *, is_wav: bool) -> float:
    """Returns the largest absolute difference; it is infinite if shapes or strings differ, or if a value is NaN.

    Two WAV files differ by their samples, where full scale is 1.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if actual.dtype.kind == "O":
        pairs = zip(actual.flat, expected.flat, strict=True)
        return max((_wav_difference(*pair) if is_wav else _unequal(*pair) for pair in pairs), default=0.0)
    difference = np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")


def _wav_difference(actual: bytes, expected: bytes) -> float:
    header = 44
    if len(actual) != len(expected) or actual[:header] != expected[:header]:
        return float("inf")
    samples = [np.frombuffer(wav, "<i2", offset=header).astype(np.float64) for wav in (actual, expected)]
    return float(np.max(np.abs(samples[0] - samples[1]), initial=0.0)) / 32_768


def _unequal(actual: bytes, expected: bytes) -> float:
    return 0.0 if actual == expected else float("inf")


if __name__ == "__main__":
    _, unknown = ops_of(sys.argv[1])
    if unknown:
        sys.exit(f"the graph uses ops that TensorFlow does not have: {', '.join(sorted(unknown))}")
    print(json.dumps(compare(sys.argv[1], sys.argv[2])))
