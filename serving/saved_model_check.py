"""Loads a SavedModel where only TensorFlow is known and compares it with reference outputs.

Run as a script by `serving.export`; imports nothing of this project. Prints the
largest difference and where it is, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf


def compare(saved_model: str, reference: str) -> tuple[float, str]:
    """Runs every signature on the reference inputs.

    Args:
        saved_model: folder of the SavedModel.
        reference: npz with arrays named `SIGNATURE/in/ALIAS` and `SIGNATURE/out/ALIAS`.

    Returns:
        The largest absolute difference, and the output it was found in.
    """
    loaded = tf.saved_model.load(saved_model)
    calls: dict[str, dict[str, dict[str, Any]]] = {}
    with np.load(reference) as arrays:
        for key in arrays.files:
            name, side, alias = key.split("/")
            calls.setdefault(name, {"in": {}, "out": {}})[side][alias] = arrays[key]
    worst = (0.0, "no output")
    for name, call in calls.items():
        outputs = loaded.signatures[name](**{alias: tf.constant(array) for alias, array in call["in"].items()})
        for alias, expected in call["out"].items():
            worst = max(worst, (_difference(outputs[alias].numpy(), expected), f"{name}/{alias}"))
    return worst


def _difference(actual: Any, expected: Any) -> float:
    """Largest absolute difference; infinite where shapes, strings or NaN differ."""
    if actual.dtype.kind == "O":
        actual = actual.astype(np.bytes_)
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    if actual.shape != expected.shape:
        return float("inf")
    difference = np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")


if __name__ == "__main__":
    print(json.dumps(compare(sys.argv[1], sys.argv[2])))
