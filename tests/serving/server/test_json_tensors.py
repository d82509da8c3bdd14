"""JSON of the REST API to arrays and back. How a whole request is answered or refused is in `test_rest`."""

import base64
import json

import numpy as np
import pytest
from serving_tools import signature_of

from serving.protocol import protos
from serving.protocol.status import StatusError
from serving.server import json_tensors


def test_bytes_cross_as_base64():
    definition = protos.SignatureDef()
    definition.inputs["blob"].dtype = 7
    definition.inputs["blob"].tensor_shape.dim.add(size=-1)
    signature = signature_of(definition, lambda inputs: inputs)
    encoded = {"b64": base64.b64encode(b"\x00\xff").decode()}
    for instances in ([encoded, "text"], [{"blob": encoded}, {"blob": "text"}]):
        assert json_tensors.read_rows(signature, instances)["blob"].tolist() == [b"\x00\xff", b"text"]
    array = np.array([b"\x00\xff", b"text"], object)
    assert json_tensors.string_bytes({"blob_bytes": np.array([bytes(30), bytes(60)], object), "x": np.zeros(9)}) == 120
    assert json.loads(json_tensors.write_rows({"blob_bytes": array})) == [
        encoded,
        {"b64": base64.b64encode(b"text").decode()},
    ]
    assert json.loads(json_tensors.write_columns({"text": array[1:]})) == ["text"]
    with pytest.raises(StatusError, match="base64"):
        json_tensors.read_rows(signature, [{"b64": "?"}])


def test_answers_are_the_json_of_their_values():
    table, column = np.array([[1.5, np.inf], [-2, 0.1]], np.float32), np.array([b"a", b"b"], object)
    outputs = {"table": table, "texts": column, "flags": np.array([True, False])}
    lists = {"table": table.tolist(), "texts": ["a", "b"], "flags": [True, False]}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    assert json_tensors.write_columns(outputs).decode() == json.dumps(lists)
    assert json_tensors.write_rows(outputs).decode() == json.dumps(rows)
    assert json_tensors.write_rows({"table": table}).decode() == json.dumps(table.tolist())
    for alone in (np.array(3, np.int32), np.zeros((0, 2), np.float32), np.zeros((2, 0), np.float32)):
        assert json_tensors.write_columns({"alone": alone}).decode() == json.dumps(alone.tolist())
