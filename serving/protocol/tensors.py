"""NumPy arrays to and from TensorProto.

Writing always uses `tensor_content`. Reading takes `tensor_content` or the typed
fields (`float_val`, ...), as TensorFlow does; the declared shape is checked
against the limit and against the data before memory is allocated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, wire

# DT_STRING of `tensorflow.DataType`; the other numbers below are of that enum too.
STRING = 7
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    STRING: np.dtype(object),
    9: np.dtype("<i8"),
    8: np.dtype("<c8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
with contextlib.suppress(ImportError):  # TensorFlow installs ml_dtypes; a client alone may not have it
    import ml_dtypes

    _DTYPES[14] = np.dtype(ml_dtypes.bfloat16)
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
_VALUES = {
    1: "float_val",
    2: "double_val",
    STRING: "string_val",
    8: "scomplex_val",
    9: "int64_val",
    10: "bool_val",
    14: "half_val",
    18: "dcomplex_val",
    19: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}


class TensorError(ValueError):
    """A TensorProto cannot be read: unknown type, impossible shape, or data that does not fit the shape."""


def dtype_of(number: int) -> np.dtype[Any]:
    """Returns the NumPy type of a `tensorflow.DataType`; strings become objects that hold bytes.

    Raises:
        TensorError: this server does not support the type.
    """
    try:
        return _DTYPES[number]
    except KeyError:
        raise TensorError(f"{protos.data_type_name(number)} is not supported here; use DT_FLOAT") from None


def to_proto(array: NDArray[Any]) -> Any:
    """Returns `array` as a TensorProto.

    Raises:
        TensorError: TensorFlow has no type for the array's.
    """
    proto = protos.TensorProto()
    write(proto, array)
    return proto


def write(proto: Any, array: NDArray[Any]) -> None:
    """Writes `array` into an empty TensorProto, such as one inside another message.

    Raises:
        TensorError: TensorFlow has no type for the array's.
    """
    _describe(proto, array, array.shape)
    if proto.dtype == STRING:
        proto.string_val.extend(value if isinstance(value, bytes) else str(value).encode() for value in array.flat)
    else:
        proto.tensor_content = np.ascontiguousarray(array, dtype=_DTYPES[proto.dtype]).tobytes()


def response_parts(response: Any, outputs: Mapping[str, NDArray[Any]]) -> list[wire.Buffer]:
    """Returns the bytes of a PredictResponse with these outputs, as parts to be sent one after another.

    The parts refer to the arrays' memory. Protobuf would copy each array three
    times; a message's fields may come in any order, so the outputs can be
    appended to the serialised rest.

    Args:
        response: the message, without outputs.
        outputs: by alias.

    Raises:
        TensorError: as `write`.
    """
    parts: list[wire.Buffer] = [response.SerializeToString()]
    for alias, array in outputs.items():
        parts.append(head(alias, array))
        if array.dtype.kind not in "OSU":
            parts.append(content(array))
    return parts


def head(alias: str, array: NDArray[Any], *, rows: int | None = None) -> bytes:
    """Returns the bytes of an output in a PredictResponse up to its `content`; for strings, the whole output.

    Args:
        alias: name of the output.
        array: the output.
        rows: write the header for this many rows instead of all; not for strings.

    Raises:
        TensorError: as `write`.
    """
    proto, size = protos.TensorProto(), 0
    if array.dtype.kind in "OSU":
        write(proto, array)
        tensor: bytes = proto.SerializeToString()
    else:
        shape = array.shape if rows is None else (rows, *array.shape[1:])
        _describe(proto, array, shape)
        size = math.prod(shape) * array.itemsize
        tensor = proto.SerializeToString() + wire.header(wire.CONTENT, size)
    name = alias.encode()
    entry = wire.header(wire.KEY, len(name)) + name + wire.header(wire.VALUE, len(tensor) + size) + tensor
    return wire.header(wire.OUTPUTS, len(entry) + size) + entry


def content(array: NDArray[Any]) -> memoryview:
    """Returns an array of numbers as the bytes of `tensor_content`: a view, or a copy if the layout differs."""
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def _describe(proto: Any, array: NDArray[Any], shape: Sequence[int]) -> None:
    number = STRING if array.dtype.kind in "OSU" else _NUMBERS.get(array.dtype.newbyteorder("<"))
    if number is None:
        raise TensorError(f"arrays of {array.dtype} have no TensorFlow type; use float32")
    proto.dtype = number
    for size in shape:
        proto.tensor_shape.dim.add(size=size)


def from_proto(proto: Any, *, max_bytes: int, content: memoryview | None = None) -> NDArray[Any]:
    """Returns a TensorProto as an array, which may be a read-only view of its bytes.

    Args:
        proto: the message.
        max_bytes: largest array to make, in bytes.
        content: the `tensor_content`, if it was cut out of the message (see `wire.read_predict`).

    Raises:
        TensorError: see the class.
    """
    dtype = dtype_of(proto.dtype)
    shape = _shape(proto.tensor_shape)
    count = math.prod(shape)
    # A zero must not hide the other sizes: NumPy refuses an array of shape [0, 2**40, 2**40].
    if math.prod(size or 1 for size in shape) * dtype.itemsize > max_bytes:
        raise TensorError(f"a tensor of shape {list(shape)} would take more than {max_bytes} bytes")
    if content := content or proto.tensor_content:
        return _from_content(content, dtype, shape, count)
    return _from_values(getattr(proto, _VALUES.get(proto.dtype, "int_val")), dtype, count).reshape(shape)


def _shape(proto: Any) -> tuple[int, ...]:
    if len(proto.dim) > 32:  # looked at first, because a hostile request has millions
        raise TensorError(f"a tensor of {len(proto.dim)} dimensions is not supported")
    if proto.unknown_rank or any(dim.size < 0 for dim in proto.dim):
        raise TensorError("the tensor's shape is not fully known")
    return tuple(dim.size for dim in proto.dim)


def _from_content(
    content: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], count: int
) -> NDArray[Any]:
    if dtype.kind == "O":
        raise TensorError("strings must be in string_val, not in tensor_content")
    if len(content) != count * dtype.itemsize:
        raise TensorError(
            f"tensor_content holds {len(content)} bytes; shape {list(shape)} needs {count * dtype.itemsize}"
        )
    return np.frombuffer(content, dtype=dtype).reshape(shape)


def _from_values(values: Sequence[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Returns `count` elements. As in TensorFlow, the last value is repeated, and no value at all means zeros."""
    if dtype.kind == "c":  # each element is two values: its real and its imaginary part
        if len(values) % 2:
            raise TensorError(f"{len(values)} values are not pairs of a real and an imaginary part")
        return _from_values(values, np.dtype(f"<f{dtype.itemsize // 2}"), 2 * count).view(dtype)
    if dtype.itemsize == 2 and dtype.kind in "fV":  # half and bfloat16: each value is the bits of an element
        return _from_values(values, np.dtype("<u2"), count).view(dtype)
    given = len(values)
    if given > count:
        raise TensorError(f"{given} values do not fit a tensor of {count} elements")
    # Small integers are sent as int32. They are read as int64, so that a value that is too large does not wrap.
    read = np.fromiter(values, np.dtype("<i8") if dtype.itemsize < 4 and dtype.kind in "iu" else dtype, count=given)
    if read.dtype != dtype and given and not np.array_equal(read, read.astype(dtype)):
        raise TensorError(f"values do not fit {dtype}")
    array = np.full(count, b"" if dtype.kind == "O" else 0, dtype)
    array[:given] = read
    if given:
        array[given:] = read[-1]
    return array
