"""JSON values become arrays of the signature's type, in bounded memory; the texts are TensorFlow Serving's."""

import json
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serving_tools import native, signature_of

from serving.protocol import protos
from serving.protocol.status import Code, StatusError
from serving.server.rest import json_tensors, json_values

FLOAT, DOUBLE, INT32, UINT8, STRING, COMPLEX, INT64, BOOL, HALF, UINT64 = 1, 2, 3, 4, 7, 8, 9, 10, 19, 23


def read(text, data_type):
    return json_values.array_of("x", json_values.leaves(json_values.read_object(text.encode())["x"]), data_type)


@pytest.mark.parametrize(
    ("text", "data_type", "expected"),
    [
        ("[1, 2.0, 5.003]", FLOAT, np.array([1, 2, 5.003], np.float32)),
        ("[NaN, Infinity, -Infinity, Inf, -Inf, -NaN]", FLOAT, np.array([*"ni-", *"i-n"], object)),
        ("16777215", FLOAT, np.float32(16777215)),
        ("[[1], [2]]", INT64, np.array([[1], [2]])),
        ("[[], []]", INT32, np.zeros((2, 0), np.int32)),
        ("18446744073709551615", UINT64, np.uint64(2**64 - 1)),
        ("[1.5, 2]", HALF, np.array([1.5, 2], np.float16)),
        ("[true, false]", BOOL, np.array([True, False])),
        ('"Inf"', STRING, np.array(b"Inf", object)),
        ('{"b64": "aGVsbG8"}', STRING, np.array(b"hello", object)),
    ],
)
def test_values_are_read_as_the_type_of_the_signature(text, data_type, expected):
    if expected.dtype == object and expected.ndim:
        expected = np.array([{"n": np.nan, "i": np.inf, "-": -np.inf}[sign] for sign in expected], np.float32)
    array = read(f'{{"x": {text}}}', data_type)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("text", "data_type", "says"),
    [
        ("[1, [2]]", FLOAT, "Encountered list at unexpected level: 1 expected < 1"),
        ("[[1], 2]", FLOAT, "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ("[[1], [2, 3]]", FLOAT, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ("16777217", FLOAT, "16777217 to float without loss of precision"),
        ("1.7976931348623157e+308", FLOAT, "without loss of precision"),
        ("9007199254740993", DOUBLE, "without loss of precision"),
        ("3000000000", INT32, "is not of expected type: int32"),
        ("-1", UINT8, "is not of expected type: uint8"),
        ("[1, null]", INT32, "Type: Null is not of expected type: int32"),
        ("{}", STRING, "not formatted correctly for base64 data"),
        ('{"b64": "a"}', STRING, "Unable to base64 decode"),
        ("Infx", FLOAT, "JSON Parse error"),
    ],
)
def test_values_that_do_not_fit_are_refused(text, data_type, says):
    with pytest.raises(StatusError, match=re.escape(says)) as info:
        read(f'{{"x": {text}}}', data_type)
    assert info.value.code == Code.INVALID_ARGUMENT


def test_a_type_that_json_cannot_give_is_not_implemented():
    with pytest.raises(StatusError) as info:
        read('{"x": 1.5}', COMPLEX)
    assert info.value.code == Code.UNIMPLEMENTED


@native
@settings(max_examples=80, deadline=None)
@given(
    value=st.recursive(
        st.one_of(
            st.integers(-(2**70), 2**70),
            st.integers(-9, 9),
            st.floats(),
            st.sampled_from(["", "x", None, True, {"b64": "aGVsbG8"}, 2**24, -(2**53), 1e39, 1e-320]),
        ),
        lambda items: st.one_of(st.lists(items, max_size=3), items.map(lambda item: [item, item])),
        max_leaves=12,
    ),
    data_type=st.sampled_from([FLOAT, DOUBLE, INT32, UINT8, STRING, INT64, BOOL, UINT64, HALF]),
    rows=st.booleans(),
)
@example(value=[1.5, 2**24 + 1], data_type=FLOAT, rows=True)
@example(value=[[1, 2], [3.5, 4]], data_type=INT32, rows=False)
def test_the_compiled_module_reads_numbers_as_python_does(value, data_type, rows):
    data = json.dumps({"signature_name": "", "x": value}, indent=1).encode()
    definition = protos.SignatureDef()
    definition.inputs["x"].dtype = data_type
    signature = signature_of(definition, lambda inputs: inputs)
    read = json_tensors.read_rows if rows else json_tensors.read_columns
    found: list[object] = []
    for many in (1, None):
        try:
            array = read(signature, json_values.read_object(data, many=many)["x"])["x"]
            found.append((array.dtype, array.shape, array.tobytes() if data_type != STRING else array.tolist()))
        except StatusError as error:
            found.append(error.code)
    assert found[0] == found[1]


@native
def test_an_error_in_the_json_has_the_place_that_it_has_in_the_text():
    data = b'{"x": [' + b"1, " * 100 + b'1], "y": ]}'
    with pytest.raises(StatusError, match=f"Invalid value at offset: {data.index(b']}')}"):
        json_values.read_object(data)


@native
def test_no_client_can_name_an_array():
    text = json.dumps({"x": [1] * 64, "y": "0:0", "z": [[1], "x"]})
    value = json_values.read_object(text.encode())
    assert isinstance(value["x"], json_values.Numbers)
    assert value["y"] == "0:0"
    assert value["z"] == [[1], "x"]


@pytest.mark.parametrize("data_type", [FLOAT, STRING])
def test_one_long_string_among_many_short_ones_takes_little_memory(data_type):
    text = json.dumps({"x": ["a" * 100_000, *[""] * 20_000]})
    tracemalloc.start()
    try:
        read(text, data_type)
    except StatusError:
        assert data_type == FLOAT
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [' + "[]," * 9999 + "[]]}",
        '{"x": [' + '{"":{}},' * 9999 + "{}]}",
        '{"x": [' + "1.5," * 9999 + "1]}",
        json.dumps({"x": [f"{number} é" for number in range(9999)]}, ensure_ascii=False),
    ],
)
def test_the_estimate_of_memory_is_not_too_small(text):
    data = text.encode()
    tracemalloc.start()
    value = json_values.read_object(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value
    assert peak < json_values.memory_of(data) < 8 * peak


@pytest.mark.parametrize(
    "text", [rb'{"a": "\ud800"}', rb'{"\uDFFF": 1}', b'{"a": "\xed\xa0\x80"}', rb'{"a": ["\ud83d\u0041"]}']
)
def test_half_of_a_surrogate_pair_is_no_text(text):
    with pytest.raises(StatusError, match="surrogate pair"):
        json_values.read_object(text)


def test_a_surrogate_pair_is_one_character():
    assert json_values.read_object(rb'{"a": "\ud83c\udfb9"}') == {"a": "\U0001f3b9"}
