"""Checks of JSON bodies on the model of `serving.checks.api_model`: what they become, and what is refused.

The expected answers are those of TensorFlow Serving's `util/json_tensor.cc` and `http_rest_api_handler.cc`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from serving.checks.probe import Asker, Case, require, rest_refused


class Refused(str):
    """A part of the error's text; the status is 400."""


# Signature, name of the case, `instances` or `inputs`, its JSON, and the values of the answer.
_Body = tuple[str, str, str, str, Any]
_ROWS, _COLUMNS = "instances", "inputs"
_NAN, _INF = math.nan, math.inf
_TYPE, _LOST = Refused("not of expected type"), Refused("without loss of precision")
_SIZE, _SHAPE = Refused("Expecting tensor size"), Refused("Expecting shape")
_KEYS, _LIST = Refused("keys must be equal to: x"), Refused("Expecting 'instances' value to be a list/array")
_HELLO, _WORLD = '{"b64": "aGVsbG8="}', '{"b64": "d29ybGQ="}'


def json_cases(asker: Asker) -> Iterator[Case]:
    """Yields the checks of `:predict`."""
    for signature, name, key, values, expected in (*_SHAPES, *_NUMBERS, *_TEXTS, *_SIGNATURES):
        body = f'{{"signature_name": "{signature}", "{key}": {values}}}'
        if not isinstance(expected, Refused):
            expected = {"predictions" if key == _ROWS else "outputs": expected}
        yield f"JSON, {signature}: {name}", partial(answers, asker, body, expected)
    for name, body, expected in _BODIES:
        yield f"JSON: {name}", partial(answers, asker, body, expected)


def answers(asker: Asker, body: str, expected: Any, *, method: str = "predict") -> None:
    """Requires that the body is answered with the JSON `expected`, or refused with a text."""
    path = f"/v1/models/{asker.target.model}:{method}"
    if isinstance(expected, Refused):
        rest_refused(partial(asker.rest, "POST", path, body), 400, expected)
    else:
        status, found = asker.rest("POST", path, body)
        require(status == 200 and _alike(found, expected), f"{status} {str(found)[:200]}, not {str(expected)[:200]}")


def _alike(found: Any, expected: Any) -> bool:
    """Tells whether two JSON values are equal; floats may differ by the rounding of 32 bits."""
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_alike, found, expected))
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(_alike(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, float):
        if not isinstance(found, float):  # a float is written with a point or an exponent
            return False
        return (math.isnan(found) and math.isnan(expected)) or math.isclose(found, expected, rel_tol=1e-6)
    return type(found) is type(expected) and bool(found == expected)


_SHAPES: tuple[_Body, ...] = (
    ("echo_int32", "rows of numbers", _ROWS, "[1, 2, 3]", [1, 2, 3]),
    ("echo_int32", "rows of lists", _ROWS, "[[1, 2], [3, 4], [5, 6]]", [[1, 2], [3, 4], [5, 6]]),
    ("echo_int32", "one row", _ROWS, "[[1, 2]]", [[1, 2]]),
    ("echo_int32", "rows of matrices", _ROWS, "[[[1, 2]], [[3, 4]]]", [[[1, 2]], [[3, 4]]]),
    ("echo_int32", "rows by name", _ROWS, '[{"x": 1}, {"x": 2}]', [1, 2]),
    ("echo_int32", "rows of lists by name", _ROWS, '[{"x": [1, 2]}, {"x": [3, 4]}]', [[1, 2], [3, 4]]),
    ("echo_int32", "a batch as a column", _COLUMNS, "[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
    ("echo_int32", "a column by name", _COLUMNS, '{"x": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
    ("echo_int32", "a scalar", _COLUMNS, "7", 7),
    ("echo_int32", "a scalar by name", _COLUMNS, '{"x": 7}', 7),
    ("echo_int32", "rows of different lengths", _ROWS, "[[1, 2], [3, 4], [5, 6, 7]]", _SIZE),
    ("echo_int32", "rows of different shapes", _ROWS, "[[1, 2], [3, 4], [[5, 6]]]", _SHAPE),
    ("echo_int32", "a number and a list as rows", _ROWS, "[1, [1]]", _SHAPE),
    ("echo_int32", "rows by name of different lengths", _ROWS, '[{"x": [1, 2]}, {"x": [3]}]', _SIZE),
    ("echo_int32", "rows by name of different shapes", _ROWS, '[{"x": [1, 2]}, {"x": [[3, 4]]}]', _SHAPE),
    ("echo_int32", "an object after a list", _ROWS, '[[1], {"x": [1]}]', Refused("value/list but got object")),
    ("echo_int32", "a list after an object", _ROWS, '[{"x": [1]}, [1]]', Refused("Expecting object but got list")),
    ("echo_int32", "rows by an unknown name", _ROWS, '[{"z": 1}]', _KEYS),
    ("echo_int32", "rows by too many names", _ROWS, '[{"x": 1, "z": 1}]', _KEYS),
    ("echo_int32", "rows without a name", _ROWS, "[{}]", _KEYS),
    ("echo_int32", "a ragged column", _COLUMNS, "[[1, 2], [3]]", Refused("Encountered list at unexpected size")),
    ("echo_int32", "a column that is deeper in one place", _COLUMNS, "[[1], [[2]]]", Refused("")),
    ("echo_int32", "a column that is flatter in one place", _COLUMNS, "[[1], 2]", Refused("")),
    ("echo_int32", "a column of no input", _COLUMNS, '{"z": [1]}', Refused("Missing named input: x in 'inputs'")),
    ("echo_int32", "no rows", _ROWS, "[]", Refused("No values in 'instances' array")),
    ("echo_int32", "a number in place of rows", _ROWS, "5", _LIST),
    ("echo_int32", "an object in place of rows", _ROWS, '{"x": 5}', _LIST),
    ("echo_int32", "text in place of rows", _ROWS, '"x"', _LIST),
    ("echo_int32", "null in place of rows", _ROWS, "null", _LIST),
    ("echo_float32", "many rows", _ROWS, f"[{', '.join(['[0.5, 1]'] * 300)}]", [[0.5, 1.0]] * 300),
    ("echo_float32", "a deep column", _COLUMNS, "[[[[[[1.5]]]]]]", [[[[[[1.5]]]]]]),
    ("echo_float32", "rows of different lengths", _ROWS, "[[0.5], [0.5, 1]]", _SIZE),
    ("echo_float32", "rows of different shapes", _ROWS, "[[[0.5]], [0.5]]", _SHAPE),
)

_NUMBERS: tuple[_Body, ...] = (
    ("echo_int32", "the least and the largest", _ROWS, "[-2147483648, 2147483647]", [-2147483648, 2147483647]),
    ("echo_int32", "a number too large", _ROWS, "[2147483648]", _TYPE),
    ("echo_int32", "a number too small", _ROWS, "[-2147483649]", _TYPE),
    ("echo_int32", "a fraction", _ROWS, "[1.5]", _TYPE),
    ("echo_int32", "a whole number with a point", _ROWS, "[1.0]", _TYPE),
    ("echo_int32", "text", _ROWS, '[[1, 2], ["a", "b"]]', _TYPE),
    ("echo_int32", "a number as text", _ROWS, '["1"]', _TYPE),
    ("echo_int32", "truth", _ROWS, "[true]", _TYPE),
    ("echo_int32", "null", _ROWS, "[null]", _TYPE),
    ("echo_int32", "NaN", _ROWS, "[NaN]", _TYPE),
    ("echo_int32", "a fraction in a column", _COLUMNS, "[1, 1.5]", _TYPE),
    ("echo_int64", "a number that no double holds", _ROWS, "[9007199254740993]", [9007199254740993]),
    ("echo_int64", "the least", _ROWS, "[-9223372036854775808]", [-9223372036854775808]),
    ("echo_int64", "the largest", _ROWS, "[9223372036854775807]", [9223372036854775807]),
    ("echo_int64", "a number too large", _ROWS, "[9223372036854775808]", _TYPE),
    ("echo_int64", "a fraction", _ROWS, "[0.5]", _TYPE),
    ("echo_int64", "text", _ROWS, '["5"]', _TYPE),
    ("echo_uint8", "the least and the largest", _ROWS, "[0, 255]", [0, 255]),
    ("echo_uint8", "a fraction", _ROWS, "[0.5]", _TYPE),
    ("echo_int8", "the least and the largest", _ROWS, "[-128, 127]", [-128, 127]),
    ("echo_int16", "the least and the largest", _ROWS, "[-32768, 32767]", [-32768, 32767]),
    ("echo_bool", "truth", _ROWS, "[true, false]", [True, False]),
    ("echo_bool", "a column of truth", _COLUMNS, "[[true], [false]]", [[True], [False]]),
    ("echo_bool", "a number", _ROWS, "[1]", _TYPE),
    ("echo_bool", "text", _ROWS, '["true"]', _TYPE),
    ("echo_float32", "whole numbers and fractions", _ROWS, "[1, 2.0, 5.5, 0.25, 0]", [1.0, 2.0, 5.5, 0.25, 0.0]),
    ("echo_float32", "exponents", _ROWS, "[1e3, 25E-2, -1.5e+1]", [1000.0, 0.25, -15.0]),
    ("echo_float32", "NaN and infinities", _ROWS, "[NaN, Infinity, -Infinity]", [_NAN, _INF, -_INF]),
    ("echo_float32", "the short name of infinity", _ROWS, "[Inf, -Inf]", [_INF, -_INF]),
    ("echo_float32", "more digits than it has", _ROWS, "[0.1, 3.14159265358979]", [0.1, 3.14159265358979]),
    ("echo_float32", "a large number", _ROWS, "[3e38, -3e38]", [3e38, -3e38]),
    ("echo_float32", "the largest whole number without loss", _ROWS, "[16777215]", [16777215.0]),
    ("echo_float32", "a whole number with loss", _ROWS, "[16777217]", _LOST),
    ("echo_float32", "a negative whole number with loss", _ROWS, "[-16777217]", _LOST),
    ("echo_float32", "a double that is too large", _ROWS, "[1.7976931348623157e308]", _LOST),
    ("echo_float32", "a double that is too small", _ROWS, "[-1.7976931348623157e308]", _LOST),
    ("echo_float32", "text", _ROWS, '["1.0"]', _TYPE),
    ("echo_float32", "truth", _ROWS, "[false]", _TYPE),
    ("echo_float32", "null", _ROWS, "[null]", _TYPE),
    ("echo_float64", "whole numbers and fractions", _ROWS, "[1.0, 2, 0.662, 0]", [1.0, 2.0, 0.662, 0.0]),
    ("echo_float64", "a large number", _ROWS, "[1e308]", [1e308]),
    ("echo_float64", "NaN and infinity", _COLUMNS, "[NaN, -Infinity]", [_NAN, -_INF]),
    ("echo_float64", "a whole number with loss", _ROWS, "[9007199254740993]", _LOST),
    ("echo_float64", "text", _ROWS, '["a"]', _TYPE),
)

_TEXTS: tuple[_Body, ...] = (
    ("echo_string", "rows of text", _ROWS, '["foo", "bar"]', ["foo", "bar"]),
    ("echo_string", "rows of lists of text", _ROWS, '[["foo"], ["bar"]]', [["foo"], ["bar"]]),
    ("echo_string", "empty text", _ROWS, '[""]', [""]),
    ("echo_string", "text beyond ASCII", _ROWS, '["Größe ♪", "\\u00e9"]', ["Größe ♪", "é"]),
    ("echo_string", "escaped characters", _ROWS, r'["a\"b\\c\nd"]', ['a"b\\c\nd']),
    ("echo_string", "rows of base64", _ROWS, f"[{_HELLO}, {_WORLD}]", ["hello", "world"]),
    ("echo_string", "rows of lists of base64", _ROWS, f"[[{_HELLO}], [{_WORLD}]]", [["hello"], ["world"]]),
    ("echo_string", "base64 by name", _ROWS, f'[{{"x": [{_HELLO}, {_WORLD}]}}]', [["hello", "world"]]),
    ("echo_string", "text and base64", _ROWS, f'["foo", {_WORLD}]', ["foo", "world"]),
    ("echo_string", "a column of base64", _COLUMNS, f"[{_HELLO}]", ["hello"]),
    ("echo_string", "a scalar", _COLUMNS, '"foo"', "foo"),
    ("echo_string", "a scalar of base64", _COLUMNS, _HELLO, "hello"),
    ("echo_string", "a scalar of base64 by name", _COLUMNS, f'{{"x": {_HELLO}}}', "hello"),
    ("echo_string", "text that is not base64", _ROWS, '[{"b64": "%%%"}]', Refused("Unable to base64 decode")),
    ("echo_string", "base64 that is a number", _ROWS, '[{"b64": 5}]', Refused("")),
    ("echo_string", "numbers", _ROWS, "[1]", _TYPE),
    ("echo_string", "null", _ROWS, "[null]", _TYPE),
    ("echo_string", "truth", _ROWS, "[true]", _TYPE),
)

_ONE = '{"whole": [1, 2], "text": "a", "real": 0.5}'
_TWO = '{"whole": [3, 4], "text": {"b64": "aGVsbG8="}, "real": NaN}'
_BOTH = [
    {"whole": [1, 2], "text": "a", "text_bytes": {"b64": "YQ=="}, "real": 0.5},
    {"whole": [3, 4], "text": "hello", "text_bytes": {"b64": "aGVsbG8="}, "real": _NAN},
]
_SIGNATURES: tuple[_Body, ...] = (
    ("several", "inputs of several types as rows", _ROWS, f"[{_ONE}, {_TWO}]", _BOTH),
    (
        "several",
        "inputs of several types as columns",
        _COLUMNS,
        '{"whole": [[1, 2]], "text": ["a", "b"], "real": 0.5}',
        {"whole": [[1, 2]], "text": ["a", "b"], "text_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}], "real": 0.5},
    ),
    ("several", "one of three inputs", _ROWS, '[{"whole": 1}]', Refused("keys must be equal to: real,text,whole")),
    ("several", "an input is missing in one row", _ROWS, f'[{_ONE}, {{"whole": 1}}]', Refused("element: 1")),
    ("several", "a plain list as rows", _ROWS, "[1]", Refused("multiple input tensors required")),
    ("several", "a plain list as columns", _COLUMNS, "[1]", Refused("multiple input tensors required")),
    ("several", "a column is missing", _COLUMNS, '{"whole": 1, "real": 1.0}', Refused("Missing named input: text")),
    ("several", "a row of another shape", _ROWS, f"[{_ONE}, {_TWO.replace('[3, 4]', '[[3, 4]]')}]", _SHAPE),
    ("several", "a row of another length", _ROWS, f"[{_ONE}, {_TWO.replace('[3, 4]', '[3]')}]", _SIZE),
    ("several", "a row of another type", _ROWS, f"[{_ONE}, {_TWO.replace('NaN', 'null')}]", _TYPE),
    ("half_plus_two", "rows", _ROWS, "[1.0, 2.0, 5.0]", [2.5, 3.0, 4.5]),
    ("half_plus_two", "a column", _COLUMNS, "[1.0, 2.0, 5.0]", [2.5, 3.0, 4.5]),
    ("total", "a scalar as a column", _COLUMNS, "[1.0, 2.0]", 3.0),
    ("total", "a scalar as rows", _ROWS, "[1.0, 2.0]", Refused("has no shape information")),
    ("uneven", "outputs of different lengths as columns", _COLUMNS, "[1.0, 2.0]", {"all": [1.0, 2.0], "first": [1.0]}),
    ("uneven", "outputs of different lengths as rows", _ROWS, "[1.0, 2.0]", Refused("inconsistent batch size")),
    ("uneven", "outputs of equal lengths as rows", _ROWS, "[1.0]", [{"all": 1.0, "first": 1.0}]),
    (
        "nope",
        "an unknown signature",
        _ROWS,
        "[1]",
        Refused('signature name: "nope" not found in'),
    ),
)

_BODIES: tuple[tuple[str, str, Any], ...] = (
    ("without a signature, serving_default is run", '{"instances": [1.0]}', {"predictions": [2.5]}),
    ("an empty name of a signature is serving_default", '{"signature_name": "", "inputs": [1.0]}', {"outputs": [2.5]}),
    ("other keys are ignored", '{"instances": [1.0], "more": {"x": [1]}}', {"predictions": [2.5]}),
    ("space around and inside", ' \n{ "instances" : [ 1.0 ,\t2.0 ] }\r\n ', {"predictions": [2.5, 3.0]}),
    ("nothing", "", Refused("document is empty")),
    ("half an object", "{", Refused("JSON Parse error")),
    ("a comma too many", '{"instances": [1.0,]}', Refused("JSON Parse error")),
    ("two objects", '{"instances": [1.0]} {}', Refused("JSON Parse error")),
    ("text without quotes", '{"instances": [abc]}', Refused("JSON Parse error")),
    ("keys without quotes", "{instances: [1.0]}", Refused("JSON Parse error")),
    ("a list", "[1.0]", Refused("Is not object")),
    ("a number", "1.0", Refused("Is not object")),
    ("a signature that is a number", '{"signature_name": 5, "instances": [1.0]}', Refused("must be a string value")),
    ("a signature that is null", '{"signature_name": null, "instances": [1.0]}', Refused("must be a string value")),
    ("neither rows nor columns", "{}", Refused("Missing 'inputs' or 'instances' key")),
    ("rows and columns", '{"instances": [1.0], "inputs": [1.0]}', Refused("only one of 'inputs' or 'instances'")),
)
