"""JSON of the REST API to arrays and back. How a whole request is answered or refused is in `test_rest`."""

import base64
import json
import re

import numpy as np
import pytest
from serving_tools import signature_of

from serving.protocol import protos
from serving.protocol.status import StatusError
from serving.server.rest import json_tensors


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
    numbers = [[1.5, np.inf], [-2.0, 0.1]]
    lists = {"table": numbers, "texts": ["a", "b"], "flags": [True, False]}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    assert json_tensors.write_columns(outputs).decode() == json.dumps(lists)
    assert json_tensors.write_rows(outputs).decode() == json.dumps(rows)
    assert json_tensors.write_rows({"table": table}).decode() == json.dumps(numbers)
    for alone in (np.array(3, np.int32), np.zeros((0, 2), np.float32), np.zeros((2, 0), np.float32)):
        assert json_tensors.write_columns({"alone": alone}).decode() == json.dumps(alone.tolist())


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([90.0, 0.5, 3e-5, np.nan, -np.inf], np.float32), "[90.0, 0.5, 3e-05, NaN, -Infinity]"),
        (np.array(0.2, np.float32), "0.2"),
        (np.array(b"text", object), '"text"'),
        (np.array([[b"a"], [b"b"]], object), '[["a"], ["b"]]'),
    ],
)
def test_numbers_are_short_and_scalars_are_bare(array, text):
    assert json_tensors.write_columns({"x": array}).decode() == text


def test_rows_need_a_common_batch():
    with pytest.raises(StatusError, match="no shape information"):
        json_tensors.write_rows({"x": np.array(1)})
    with pytest.raises(StatusError, match="inconsistent batch size"):
        json_tensors.write_rows({"x": np.zeros(2), "y": np.zeros(3)})


def _signature(*aliases):
    definition = protos.SignatureDef()
    for alias in aliases:
        definition.inputs[alias].dtype = 3
    return signature_of(definition, lambda inputs: inputs)


@pytest.mark.parametrize(
    ("instances", "says"),
    [
        ([[1, 2], [3, 4, 5]], "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2"),
        ([[1, 2], [[3, 4]]], "Expecting shape [2] but got: [1,2]"),
        ([1, [1]], "Expecting shape [] but got: [1]"),
        ([[1, 2], ["a", "b"]], "is not of expected type: int32"),
        ([{"x": 1}, [1]], "Expecting object but got list at item 1"),
        ([[1], {"x": 1}], "Expecting value/list but got object at item 1"),
        ([{"x": 1}, {"y": 1}], "keys must be equal to: x"),
        ([{"x": [1]}, {"x": [1, 2]}], "element: 1 key: x of 'instances' list"),
    ],
)
def test_rows_that_differ_are_refused_with_their_number(instances, says):
    with pytest.raises(StatusError, match=re.escape(says)):
        json_tensors.read_rows(_signature("x"), instances)


def test_columns_name_every_input():
    with pytest.raises(StatusError, match="Missing named input: y"):
        json_tensors.read_columns(_signature("x", "y"), {"x": [1]})
    assert set(json_tensors.read_columns(_signature("x"), {"x": [1], "more": [2]})) == {"x"}
