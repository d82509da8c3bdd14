"""Bodies of the REST API: JSON to the inputs of a request, and outputs to JSON.

A predict request has the row format (`{"instances": [...]}`, one value for each row) or
the column format (`{"inputs": ...}`, one batch for each input); TensorFlow Serving's
`g3doc/api_rest.md` defines both, and its `util/json_tensor.cc` the texts of the errors.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.protocol.names import DEFAULT_SIGNATURE
from serving.protocol.status import StatusError, refused
from serving.server.models.row_batches import Arrays
from serving.server.models.signature import Signature
from serving.server.rest.json_values import (
    Leaves,
    Numbers,
    array_of,
    is_object,
    joined,
    leaves,
    no_json,
    read_object,
    shown,
)


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
    body = read_object(data)
    name = signature_name(body) or DEFAULT_SIGNATURE
    signature = signatures.get(name)
    if signature is None:
        raise refused(f'Serving signature name: "{name}" not found in signature def')
    signature.require_servable()
    by_row = _is_by_row(body)
    read = read_rows(signature, body["instances"]) if by_row else read_columns(signature, body["inputs"])
    return PredictBody(signature, by_row, read)


def signature_name(body: Mapping[str, Any]) -> str:
    """Returns the signature that a body names, or an empty text.

    Raises:
        StatusError: INVALID_ARGUMENT; it is not a string.
    """
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise refused(
            f"JSON Value: {shown(body)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def read_rows(signature: Signature, instances: Any) -> Arrays:
    """Reads the row format: a list of values, or of objects with one value for each input.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    if not isinstance(instances, list | Numbers):
        raise refused("Expecting 'instances' value to be a list/array")
    if not instances:
        raise refused("No values in 'instances' array")
    wanted = signature.definition.inputs
    by_name = isinstance(instances, list) and is_object(instances[0])
    if not by_name and len(wanted) > 1:
        raise refused(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    listed: list[Any] = instances if isinstance(instances, list) else []
    for number, row in enumerate(listed):
        if is_object(row) is not by_name:
            what = "Expecting object but got list" if by_name else "Expecting value/list but got object"
            raise refused(f"{what} at item {number} of input list")
        if by_name and set(row) != set(wanted):
            raise refused(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} "
                f"keys must be equal to: {','.join(sorted(wanted))}"
            )
    if not by_name:
        return {alias: _rows(alias, instances, info.dtype, "") for alias, info in wanted.items()}
    columns = {alias: joined([row[alias] for row in listed]) for alias in wanted}
    return {alias: _rows(alias, columns[alias], info.dtype, f" key: {alias}") for alias, info in wanted.items()}


def read_columns(signature: Signature, inputs: Any) -> Arrays:
    """Reads the column format: an object with one batch for each input, or the bare batch if there is one input.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    wanted = signature.definition.inputs
    if not is_object(inputs):
        if len(wanted) != 1:
            raise refused(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        inputs = dict.fromkeys(wanted, inputs)
    for alias in wanted:
        if alias not in inputs:
            raise refused(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: array_of(alias, leaves(inputs[alias]), info.dtype) for alias, info in wanted.items()}


def _rows(alias: str, rows: list[Any] | Numbers, data_type: int, key: str) -> NDArray[Any]:
    """Returns the values of an input, one for each row, as one array."""
    try:
        return array_of(alias, leaves(rows), data_type)
    except StatusError as error:
        # Now the first row that is wrong is looked for, to say which one it is.
        first: Leaves | None = None
        for number, row in enumerate(rows.array.tolist() if isinstance(rows, Numbers) else rows):
            try:
                found = leaves(row)
                array_of(alias, found, data_type)
                first = first or found
                _require_same_shape(first, found)
            except StatusError as wrong:
                raise StatusError(
                    wrong.code,
                    f"Failed to process element: {number}{key} of 'instances' list. "
                    f"Error: {wrong.code.name}: {wrong.message}",
                ) from None
        raise error


def _require_same_shape(first: Leaves, found: Leaves) -> None:
    if len(found.values) != len(first.values):
        raise refused(f"Expecting tensor size: {len(first.values)} but got: {len(found.values)}")
    if found.shape != first.shape:
        one, other = (f"[{','.join(map(str, shape))}]" for shape in (first.shape, found.shape))
        raise refused(f"Expecting shape {one} but got: {other}")


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
    sizes = {len(array) for array in outputs.values() if array.ndim}
    for alias, array in outputs.items():
        if not array.ndim:
            raise refused(f"Tensor name: {alias} has no shape information ")
        if len(sizes) > 1:
            raise refused(
                f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {min(sizes - {len(array)})}"
            )
    if len(outputs) == 1:
        [(alias, array)] = outputs.items()
        return written(alias, array)
    names = [json.dumps(alias).encode() for alias in outputs]
    rows = zip(*outputs.values(), strict=True)
    return _joined(
        b"{%b}"
        % b", ".join(
            b"%b: %b" % (name, written(alias, value)) for name, alias, value in zip(names, outputs, row, strict=True)
        )
        for row in rows
    )


def write_columns(outputs: Arrays) -> bytes:
    """Returns outputs in the column format: the bare batch for one output, an object of batches for several."""
    if len(outputs) == 1:
        [(alias, array)] = outputs.items()
        return written(alias, array)
    return b"{%b}" % b", ".join(
        b"%b: %b" % (json.dumps(alias).encode(), written(alias, outputs[alias])) for alias in outputs
    )


def _is_by_row(body: Mapping[str, Any]) -> bool:
    by_row, by_column = "instances" in body, "inputs" in body
    if by_row and by_column:
        raise refused("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if not by_row and not by_column:
        raise refused("Missing 'inputs' or 'instances' key")
    return by_row


def written(alias: str, value: Any) -> bytes:
    """Returns an array or one element of it as JSON, written row by row.

    Converting a large array to Python numbers at once would take much memory and block all other threads.
    """
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return _joined(written(alias, row) for row in value)
    if isinstance(value, bytes):
        return _text(alias, value)
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return _joined(_text(alias, item) for item in array) if array.ndim else _text(alias, array.item())
    if array.dtype.kind == "c":
        raise no_json(alias)
    if array.dtype.kind == "V":  # bfloat16
        array = array.astype(np.float32)
    if array.dtype == np.float32 or array.dtype == np.float16:
        # The shortest digits that give the same number again, as TensorFlow Serving writes them: 0.1, and not
        # 0.10000000149011612.
        numbers = [_SPELLED.get(text, text) for text in np.atleast_1d(array).astype("U").tolist()]
        text = ", ".join(numbers)
        return (f"[{text}]" if array.ndim else text).encode()
    return json.dumps(array.tolist()).encode()


_SPELLED = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(alias: str, value: bytes) -> bytes:
    """Returns a string of a tensor as JSON; as base64 if the alias ends in `_bytes`."""
    if alias.endswith("_bytes"):
        return b'{"b64": "%b"}' % base64.b64encode(value)
    return json.dumps(value.decode("utf-8", "replace")).encode()


def _joined(values: Iterable[bytes]) -> bytes:
    return b"[%b]" % b", ".join(values)
