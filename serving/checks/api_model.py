"""Writes the model on which `tfpipe check-server --api-model` checks a server: small signatures of every type.

It holds no variables and needs no training, so any TensorFlow Serving loads it in a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.protocol.names import CLASSIFY, PREDICT_METHOD, REGRESS

# Types of the signatures `echo_TYPE`, which answer their input `x` of any shape as `y`.
ECHOED = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
VERSION = 1


def write_api_model(folder: Path) -> Path:
    """Writes version 1 of the model.

    Args:
        folder: of the model, the `base_path` for a server.

    Returns:
        The folder of the version.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    path = folder / str(VERSION)
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        info = v1.saved_model.build_tensor_info
        make = v1.saved_model.build_signature_def

        def signature(inputs: dict[str, Any], outputs: dict[str, Any], method: str = PREDICT_METHOD) -> Any:
            named = [{name: info(tensor) for name, tensor in side.items()} for side in (inputs, outputs)]
            return make(*named, method)

        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], _signatures(tf, signature))
        builder.save()
    return path


def _signatures(tf: Any, signature: Callable[..., Any]) -> dict[str, Any]:
    v1 = tf.compat.v1
    made = {}
    for name in ECHOED:
        x = v1.placeholder(tf.as_dtype(name), None, name=f"x_{name}")
        made[f"echo_{name}"] = signature({"x": x}, {"y": tf.identity(x)})

    x = v1.placeholder(tf.float32, [None], name="x")
    made["serving_default"] = made["half_plus_two"] = signature({"x": x}, {"y": x / 2.0 + 2.0})
    # An output without a batch dimension, alone and beside one that has it.
    made["total"] = signature({"x": x}, {"sum": tf.reduce_sum(x)})
    made["uneven"] = signature({"x": x}, {"all": tf.identity(x), "first": x[:1]})

    whole = v1.placeholder(tf.int32, None, name="whole")
    text = v1.placeholder(tf.string, None, name="text")
    real = v1.placeholder(tf.float32, None, name="real")
    made["several"] = signature(
        {"whole": whole, "text": text, "real": real},
        {"whole": tf.identity(whole), "text": tf.identity(text), "text_bytes": tf.identity(text), "real": real * 1.0},
    )

    serialized = v1.placeholder(tf.string, [None], name="examples")
    parsed = v1.parse_example(serialized, {"x": v1.FixedLenFeature([1], tf.float32, default_value=0.0)})["x"]
    score = parsed / 2.0 + 2.0
    labels = tf.as_string(parsed, precision=1)
    made["regress"] = signature({"inputs": serialized}, {"outputs": score}, REGRESS)
    made["classify"] = signature({"inputs": serialized}, {"classes": labels, "scores": score}, CLASSIFY)
    made["scores"] = signature({"inputs": serialized}, {"scores": score}, CLASSIFY)
    return made
