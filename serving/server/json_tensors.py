"""JSON of the REST API to arrays, and arrays to JSON.

A request has the row format (`{"instances": [...]}`, one value for each row) or the
column format (`{"inputs": ...}`, one batch for each input); TensorFlow Serving's
`g3doc/api_rest.md` defines both, and the texts of the errors.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, tensors
from serving.protocol.names import DEFAULT_SIGNATURE
from serving.protocol.status import Code, StatusError
from serving.server.row_batches import Arrays
from serving.server.signature import Signature

# Kinds of NumPy types that JSON values may have, by the kind of the signature's type. Bytes are objects.
_ALLOWED_KINDS = {"f": "fiu", "V": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "O"}


class PredictBody(NamedTuple):
    """The body of a predict request.

    Attributes:
        signature: what to run.
        by_row: the request has the row format, so the answer must too.
        inputs: by alias.
    """

    signature: Signature
    by_row: bool
    inputs: Arrays


def read_predict_body(signatures: Mapping[str, Signature], data: bytes) -> PredictBody:
    """Reads the body of a predict request.

    Args:
        signatures: of the model, by name.
        data: the JSON.

    Raises:
        StatusError: INVALID_ARGUMENT; the body is not JSON, or does not fit the signature.
    """
    body = _parse(data)
    if not isinstance(body, dict):
        raise StatusError(Code.INVALID_ARGUMENT, "The request must be a JSON object")
    name = body.get("signature_name") or DEFAULT_SIGNATURE
    signature = signatures.get(name) if isinstance(name, str) else None
    if signature is None:
        raise StatusError(Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
    signature.require_servable()
    by_row = _is_by_row(body)
    read = read_rows(signature, body["instances"]) if by_row else read_columns(signature, body["inputs"])
    return PredictBody(signature, by_row, read)


def read_rows(signature: Signature, instances: Any) -> Arrays:
    """Reads the row format: a list of values, or of objects with one value for each input.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    if not isinstance(instances, list):
        raise StatusError(Code.INVALID_ARGUMENT, "Expecting 'instances' value to be a list/array")
    if not instances:
        raise StatusError(Code.INVALID_ARGUMENT, "No values in 'instances' array")
    wanted = signature.definition.inputs
    if not _is_object(instances[0]):
        return read_columns(signature, instances)
    columns: dict[str, list[Any]] = {alias: [] for alias in wanted}
    for row in instances:
        if not _is_object(row) or set(row) != set(wanted):
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Every instance must be an object with the keys {sorted(wanted)}, which are the signature's inputs",
            )
        for alias, value in row.items():
            columns[alias].append(value)
    return read_columns(signature, columns)


def read_columns(signature: Signature, inputs: Any) -> Arrays:
    """Reads the column format: an object with one batch for each input, or the bare batch if there is one input.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    wanted = signature.definition.inputs
    if not _is_object(inputs):
        if len(wanted) != 1:
            raise StatusError(Code.INVALID_ARGUMENT, f"The signature has the inputs {sorted(wanted)}: name each")
        inputs = dict.fromkeys(wanted, inputs)
    if set(inputs) != set(wanted):
        raise StatusError(
            Code.INVALID_ARGUMENT, f"The inputs {sorted(inputs)} are not the signature's, which are {sorted(wanted)}"
        )
    return {alias: _array(alias, value, wanted[alias].dtype) for alias, value in inputs.items()}


def predictions(outputs: Arrays, *, by_row: bool) -> bytes:
    """Returns the body of an answer, in the format of the request.

    Raises:
        StatusError: INVALID_ARGUMENT; the row format was asked for, and the outputs have no common batch dimension.
    """
    return b'{"predictions": %b}' % write_rows(outputs) if by_row else b'{"outputs": %b}' % write_columns(outputs)


def string_bytes(outputs: Arrays) -> int:
    """Returns how many bytes the strings of an answer take as base64; their size is known only when they are there."""
    strings = (array for array in outputs.values() if array.dtype.kind == "O")
    return sum(len(value) for array in strings for value in array.flat) * 4 // 3


def write_rows(outputs: Arrays) -> bytes:
    """Returns outputs in the row format: bare values for one output, one object for each row for several.

    Raises:
        StatusError: INVALID_ARGUMENT; the outputs have no common batch dimension.
    """
    if len(outputs) == 1:
        [(alias, array)] = outputs.items()
        return _written(alias, array)
    if any(array.ndim == 0 for array in outputs.values()) or len({len(array) for array in outputs.values()}) != 1:
        raise StatusError(
            Code.INVALID_ARGUMENT, "The outputs have no common batch dimension: use the column format ('inputs')"
        )
    rows = zip(*outputs.values(), strict=True)
    return _list({alias: _values(alias, value) for alias, value in zip(outputs, row, strict=True)} for row in rows)


def write_columns(outputs: Arrays) -> bytes:
    """Returns outputs in the column format: the bare batch for one output, an object of batches for several."""
    if len(outputs) == 1:
        [(alias, array)] = outputs.items()
        return _written(alias, array)
    return b"{%b}" % b", ".join(
        b"%b: %b" % (json.dumps(alias).encode(), _written(alias, outputs[alias])) for alias in outputs
    )


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise StatusError(Code.INVALID_ARGUMENT, "JSON Parse error: nested too deeply") from None
    except ValueError as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"JSON Parse error: {error}") from None


def _is_by_row(body: Mapping[str, Any]) -> bool:
    by_row, by_column = "instances" in body, "inputs" in body
    if by_row and by_column:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        )
    if not by_row and not by_column:
        raise StatusError(Code.INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    return by_row


def _array(alias: str, value: Any, data_type: int) -> NDArray[Any]:
    """Returns JSON numbers, booleans or strings as an array of the signature's type."""
    dtype = tensors.dtype_of(data_type)
    if dtype.kind == "c":
        raise _no_json(alias)
    if dtype.kind == "O":
        value = _as_bytes(value)
    try:
        array = np.array(value, dtype=object if dtype.kind == "O" else None)
        if array.size:
            _require_type(array, dtype)
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except (ValueError, TypeError, ArithmeticError):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"'{alias}' is not a rectangular array of {protos.data_type_name(data_type)}: "
            "ragged, of another type, or out of range",
        ) from None


def _require_type(array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Raises ValueError if an array read from JSON cannot be converted to `dtype` without changing its values."""
    if array.dtype.kind not in _ALLOWED_KINDS[dtype.kind]:
        raise ValueError("wrong type")
    if dtype.kind == "O" and not all(isinstance(item, bytes) for item in array.flat):
        raise ValueError("wrong type")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValueError("out of range")


def _as_bytes(value: Any) -> Any:
    """Returns a value with its strings and `{"b64": ...}` objects replaced by bytes."""
    if isinstance(value, list):
        return [_as_bytes(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise StatusError(Code.INVALID_ARGUMENT, "Unable to base64 decode") from None
    return value


def _is_object(value: Any) -> bool:
    """Tells whether a value is an object; `{"b64": ...}` counts as a string."""
    return isinstance(value, dict) and set(value) != {"b64"}


def _no_json(alias: str) -> StatusError:
    return StatusError(Code.UNIMPLEMENTED, f"'{alias}' is of complex numbers, which JSON does not have; use gRPC")


def _written(alias: str, array: NDArray[Any]) -> bytes:
    """Returns an array as JSON, written row by row.

    Converting a large array to Python numbers at once would take much memory and block all other threads.
    """
    return _list(_values(alias, row) for row in array) if array.ndim else json.dumps(_values(alias, array)).encode()


def _list(values: Iterable[Any]) -> bytes:
    return b"[%b]" % b", ".join(json.dumps(value).encode() for value in values)


def _values(alias: str, array: Any) -> Any:
    """Returns an array or one element as JSON values; bytes become text, or base64 if the alias ends in `_bytes`."""
    if isinstance(array, np.ndarray | np.generic) and array.dtype.kind != "O":
        if array.dtype.kind == "c":
            raise _no_json(alias)
        return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()
    as_base64 = alias.endswith("_bytes")

    def text(value: bytes) -> Any:
        return {"b64": base64.b64encode(value).decode()} if as_base64 else value.decode("utf-8", "replace")

    def convert(value: Any) -> Any:
        return [convert(item) for item in value] if isinstance(value, list) else text(value)

    return convert(array.tolist() if isinstance(array, np.ndarray) else array)
