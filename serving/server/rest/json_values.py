"""Reads JSON as TensorFlow Serving does, and turns its numbers and strings into arrays of a known type.

A text is refused before it is parsed if its Python objects would take too much memory. The type of an
array comes from the signature, never from the values: NumPy would make an array of
fixed-width text from one long string and a thousand empty ones. If the compiled module is
built, it reads the arrays of numbers, without holding the interpreter.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
import secrets
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, tensors
from serving.protocol.status import Code, StatusError, refused

# Bytes that Python takes for a list, an object, a further element (with its place in two lists), and a string.
_LIST_BYTES, _OBJECT_BYTES, _ELEMENT_BYTES, _STRING_BYTES = 72, 240, 56, 60
# A text with letters outside ASCII takes up to four bytes for each of its bytes.
_WIDE = 5
# A surrogate in JSON, escaped or not; a pair of them is one character.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
# Spellings that TensorFlow Serving reads and Python does not; strings are matched first, so that they stay.
_SPELLINGS = re.compile(rb'"(?:[^"\\]|\\.)*"|-?Inf(?:inity)?|-NaN', re.DOTALL)
# Characters of a wrong value that an error shows.
_SHOWN = 100
_MOST_UINT64 = (1 << 64) - 1
_WORDS = {
    dict: "Object",
    list: "Array",
    str: "String",
    type(None): "Null",
    int: "Number",
    float: "Number",
}


try:
    from serving.server._front import cut_numbers
except ImportError:  # the compiled module is not built
    cut_numbers = None  # type: ignore[assignment]
# Arrays of fewer numbers are read by Python.
_MANY = 64
# Begins the strings that stand for arrays of numbers. Nobody can guess it, so no client can send such a string.
_TOKEN = secrets.token_hex(16) + ":"
_MOST_DIMENSIONS = 32


class Numbers(NamedTuple):
    """An array that the compiled module has read: int64, or float64 if a number has a point or an exponent.

    `largest` is the largest integer among its numbers, without the sign.
    """

    array: NDArray[Any]
    largest: int


class Leaves(NamedTuple):
    """The shape of nested lists, and the values that are in the innermost ones, in order."""

    shape: tuple[int, ...]
    values: list[Any] | Numbers


def memory_of(data: bytes) -> int:
    """Returns about how many bytes of memory a JSON text takes once it is read; at worst, it takes less."""
    return (
        len(data) * (1 if data.isascii() else _WIDE)
        + _LIST_BYTES * data.count(b"[")
        + _OBJECT_BYTES * data.count(b"{")
        + _ELEMENT_BYTES * data.count(b",")
        + _STRING_BYTES * (data.count(b'"') // 2)
    )


def read_object(data: bytes, *, many: int | None = _MANY) -> dict[str, Any]:
    """Returns the object that a JSON text holds; in it, large arrays of numbers are `Numbers`.

    Args:
        data: the text.
        many: the smallest array that becomes `Numbers`; None leaves all as lists.

    Raises:
        StatusError: INVALID_ARGUMENT; the text is not JSON, or not an object.
    """
    if not data.strip():
        raise refused("JSON Parse error: The document is empty")
    try:
        value = _read(data, many)
    except RecursionError:
        raise refused("JSON Parse error: nested too deeply") from None
    except json.JSONDecodeError as error:
        why = "Invalid value" if error.msg == "Expecting value" else error.msg
        raise refused(f"JSON Parse error: {why} at offset: {error.pos}") from None
    except ValueError as error:  # not UTF-8, or a number with too many digits
        raise refused(f"JSON Parse error: {error}") from None
    if not isinstance(value, dict):
        raise refused(f"JSON Value: {shown(value)} Is not object")
    return value


def _read(data: bytes, many: int | None) -> Any:
    if many is not None and cut_numbers is not None:
        rest, cut = cut_numbers(data, _TOKEN, many)
        if cut:
            arrays = [
                Numbers(np.frombuffer(numbers, np.int64 if whole else np.float64).reshape(shape), largest)
                for shape, whole, numbers, largest in cut
            ]
            try:
                return _put_back(_loads(rest), arrays)
            except json.JSONDecodeError:  # the whole text gives the right place of the error
                return _loads(data)
    return _loads(data)


def _loads(data: bytes) -> Any:
    try:
        value = json.loads(data)
    except json.JSONDecodeError:
        if b"Inf" not in data and b"-NaN" not in data:
            raise
        value = json.loads(_SPELLINGS.sub(_as_python_spells, data))
    if _SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair is not a character
            raise refused("JSON Parse error: The surrogate pair in string is invalid.") from None
    return value


def _put_back(value: Any, arrays: list[Numbers]) -> Any:
    """Returns a value in which each string that stands for an array is replaced by the array."""
    if isinstance(value, str) and value.startswith(_TOKEN):
        return arrays[int(value.removeprefix(_TOKEN))]
    if isinstance(value, dict):
        return {name: _put_back(item, arrays) for name, item in value.items()}
    return joined([_put_back(item, arrays) for item in value]) if isinstance(value, list) else value


def joined(values: list[Any]) -> list[Any] | Numbers:
    """Returns a list without `Numbers` in it: as one array if all are of the same shape, else as lists."""
    kinds = set(map(type, values))
    if Numbers not in kinds:
        return values
    shapes = {item.array.shape if isinstance(item, Numbers) else None for item in values}
    if len(shapes) == 1 and len(values[0].array.shape) < _MOST_DIMENSIONS:
        return Numbers(np.stack([item.array for item in values]), max(item.largest for item in values))
    return [item.array.tolist() if isinstance(item, Numbers) else item for item in values]


def _as_python_spells(match: re.Match[bytes]) -> bytes:
    text = match[0]
    if text.startswith(b'"'):
        return text
    return b"NaN" if text.endswith(b"NaN") else text.split(b"Inf")[0] + b"Infinity"


def shown(value: Any) -> str:
    """Returns a value as JSON for an error, cut if it is long."""
    while isinstance(value, list) and len(value) > _SHOWN:
        value = value[:_SHOWN]
    text = json.dumps(value, default=lambda numbers: numbers.array.ravel()[:_SHOWN].tolist())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def type_word(data_type: int) -> str:
    """Returns the word that TensorFlow has for a `tensorflow.DataType`, such as `float`."""
    return protos.data_type_name(data_type).removeprefix("DT_").lower()


def leaves(value: Any) -> Leaves:
    """Returns the shape of nested lists, which the first elements give, and their values.

    Raises:
        StatusError: INVALID_ARGUMENT; the lists are not a rectangular array.
    """
    if isinstance(value, Numbers):
        return Leaves(value.array.shape, value)
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > _MOST_DIMENSIONS:
        raise refused(f"a tensor of {len(shape)} dimensions is not supported")
    values = [value]
    for level, size in enumerate(shape):
        if set(map(type, values)) != {list} and values:
            wrong = next(item for item in values if not isinstance(item, list))
            raise refused(
                f"JSON Value: {shown(wrong)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        for length in set(map(len, values)) - {size}:
            raise refused(f"Encountered list at unexpected size: {length} at level: {level} expected size: {size}")
        values = list(itertools.chain.from_iterable(values))
    if any(issubclass(kind, list) for kind in set(map(type, values))):
        raise refused(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return Leaves(tuple(shape), values)


def no_json(alias: str) -> StatusError:
    """Returns the error for a tensor that JSON cannot hold."""
    return StatusError(Code.UNIMPLEMENTED, f"'{alias}' is of complex numbers, which JSON does not have; use gRPC")


def array_of(alias: str, found: Leaves, data_type: int) -> NDArray[Any]:
    """Returns values as an array of a `tensorflow.DataType`.

    Raises:
        StatusError: INVALID_ARGUMENT if a value has another type or does not fit; UNIMPLEMENTED for a type that JSON
            cannot give.
    """
    try:
        dtype = tensors.dtype_of(data_type)
    except tensors.TensorError as error:
        raise StatusError(Code.UNIMPLEMENTED, str(error)) from None
    if dtype.kind == "c":
        raise no_json(alias)
    kind = dtype.kind
    read = _floats if kind in "fV" else _strings if kind == "O" else _bools if kind == "b" else _integers
    return read(found.values, dtype, data_type).reshape(found.shape)


def _floats(values: list[Any] | Numbers, dtype: np.dtype[Any], data_type: int) -> NDArray[Any]:
    kinds = _require_kinds(values, {int, float}, data_type)
    # Halves are read as floats.
    limits, word = (np.finfo(np.float64), "double") if dtype.itemsize == 8 else (np.finfo(np.float32), "float")
    whole = (1 << (limits.nmant + 1)) - 1
    if isinstance(values, Numbers):
        if values.largest > whole:
            raise refused(f"Cannot convert JSON value: {values.largest} to {word} without loss of precision.")
    elif int in kinds:
        for value in values:
            if type(value) is int and not -whole <= value <= whole and -_MOST_UINT64 // 2 <= value <= _MOST_UINT64:
                raise refused(f"Cannot convert JSON value: {value} to {word} without loss of precision.")
    try:
        array = values.array.astype(np.float64) if isinstance(values, Numbers) else np.array(values, np.float64)
    except OverflowError:
        raise refused("JSON Parse error: Number too big to be stored in double.") from None
    if word == "float":
        lost = np.isfinite(array) & (np.abs(array) > limits.max)
        if lost.any():
            raise refused(f"Cannot convert JSON value: {array[lost][0]} to {word} without loss of precision.")
        with np.errstate(under="ignore", over="ignore"):
            array = array.astype(dtype)
    return array


def _integers(values: list[Any] | Numbers, dtype: np.dtype[Any], data_type: int) -> NDArray[Any]:
    _require_kinds(values, {int}, data_type)
    limits = np.iinfo(dtype)
    if isinstance(values, Numbers):
        ends = int(values.array.min()), int(values.array.max())
    else:
        ends = min(values, default=0), max(values, default=0)
    for end in ends:
        if not limits.min <= end <= limits.max:
            raise _type_error(end, data_type)
    return values.array.astype(dtype) if isinstance(values, Numbers) else np.array(values, dtype)


def _bools(values: list[Any] | Numbers, dtype: np.dtype[Any], data_type: int) -> NDArray[Any]:
    _require_kinds(values, {bool}, data_type)
    return np.array(values, dtype)


def _strings(values: list[Any] | Numbers, dtype: np.dtype[Any], data_type: int) -> NDArray[Any]:
    _require_kinds(values, {str, dict}, data_type)
    array = np.empty(len(values), dtype)
    array[:] = [as_bytes(value) for value in cast(list[Any], values)]  # numbers are refused above
    return array


def as_bytes(value: str | dict[str, Any]) -> bytes:
    """Returns the bytes of a JSON string or of `{"b64": ...}`.

    Raises:
        StatusError: INVALID_ARGUMENT; the object is another one, or its text is not base64.
    """
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise refused(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise refused("Unable to base64 decode") from None


def is_base64(value: Any) -> bool:
    """Tells whether a value is an object that stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def is_object(value: Any) -> bool:
    """Tells whether a value is an object that does not stand for bytes."""
    return isinstance(value, dict) and not is_base64(value)


def _require_kinds(values: list[Any] | Numbers, allowed: set[type], data_type: int) -> set[type]:
    if isinstance(values, Numbers):
        kind = float if values.array.dtype.kind == "f" else int
        if kind not in allowed:
            raise _type_error(values.array.flat[0].item(), data_type)
        return {kind}
    kinds = set(map(type, values))
    if not kinds <= allowed:
        raise _type_error(next(value for value in values if type(value) not in allowed), data_type)
    return kinds


def _type_error(value: Any, data_type: int) -> StatusError:
    word = str(value) if isinstance(value, bool) else _WORDS[type(value)]
    return refused(f"JSON Value: {shown(value)} Type: {word} is not of expected type: {type_word(data_type)}")
