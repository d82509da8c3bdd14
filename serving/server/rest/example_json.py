"""The JSON of `:classify` and `:regress`: `tf.Example` messages in, classes or values out.

The checks and their words are TensorFlow Serving's (`util/json_tensor.cc`).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from serving.protocol.status import refused
from serving.server.rest.json_tensors import signature_name, written
from serving.server.rest.json_values import as_bytes, is_base64, read_object, shown

_INT64 = 1 << 63
_FLOAT_MAX = float(np.finfo(np.float32).max)
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}
_WORDS = {dict: "Object", list: "Array", type(None): "Null"}


def read_examples(data: bytes, request: Any) -> None:
    """Fills a ClassificationRequest or a RegressionRequest from the JSON of its body.

    Raises:
        StatusError: INVALID_ARGUMENT; the body is not JSON, or holds no examples.
    """
    body = read_object(data, many=None)
    request.model_spec.signature_name = signature_name(body)
    listed = request.input.example_list
    if "context" in body:
        listed = request.input.example_list_with_context
        _fill(listed.context, body["context"])
    if "examples" not in body:
        raise refused(
            f"JSON Value: {shown(body)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = body["examples"]
    if not isinstance(examples, list):
        raise refused(f"JSON Value: {shown(body)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise refused(f"JSON Value: {shown(body)} 'examples' value is an empty array")
    for value in examples:
        _fill(listed.examples.add(), value)


def _fill(example: Any, value: Any) -> None:
    """Fills a tf.Example from an object of features."""
    if not isinstance(value, dict):
        word = _WORDS.get(type(value)) or ("String" if isinstance(value, str) else "Number")
        raise refused(f"Example must be JSON object but got JSON {word}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)


def _add(feature: Any, name: str, value: Any) -> None:
    """Adds a value to a feature, whose first value decides its type."""
    if isinstance(value, list | None) or (isinstance(value, dict) and not is_base64(value)):
        raise refused(f"Feature: {name} has element with unexpected JSON type: {_WORDS[type(value)]}")
    if isinstance(value, str | dict):
        field = "bytes_list"
    else:
        field = "float_list" if isinstance(value, float) else "int64_list"
    given = feature.WhichOneof("kind")
    if given not in (None, field):
        raise refused(f"Unexpected element type in feature: {name} expecting type: {_KINDS[given]}")
    if field == "bytes_list":
        value = as_bytes(value)
    elif field == "int64_list" and not -_INT64 <= value < _INT64:
        raise refused(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif field == "float_list" and _FLOAT_MAX < abs(value) < float("inf"):
        raise refused(f"Cannot convert JSON value: {value} to float without loss of precision.")
    getattr(feature, field).value.append(value)


def write_classes(result: Any) -> bytes:
    """Returns the body of an answer to `:classify`: for each example, a list of `[label, score]`."""
    rows = (
        b"[%b]"
        % b", ".join(b"[%b, %b]" % (json.dumps(entry.label).encode(), _number(entry.score)) for entry in row.classes)
        for row in result.classifications
    )
    return b'{"results": [%b]}' % b", ".join(rows)


def write_values(result: Any) -> bytes:
    """Returns the body of an answer to `:regress`: one number for each example."""
    return b'{"results": [%b]}' % b", ".join(_number(row.value) for row in result.regressions)


def _number(value: float) -> bytes:
    return written("", np.float32(value))
