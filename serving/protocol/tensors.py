"""NumPy arrays to and from TensorProto.

Requests are written with `tensor_content`. Answers are written as TensorFlow Serving
writes them: in typed fields (`float_val`, ...), or in `tensor_content` if that is asked
for. Both ways are read, as TensorFlow does; the declared shape is checked against the
limit and against the data before memory is allocated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import protos, wire

# DT_STRING of `tensorflow.DataType`; the other numbers below are of that enum too.
STRING = 7
_BFLOAT16 = 14
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    STRING: np.dtype(object),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
# The typed field of each type that is not in `int_val`.
_FIELDS = {
    1: "float_val",
    2: "double_val",
    STRING: "string_val",
    8: "scomplex_val",
    9: "int64_val",
    10: "bool_val",
    _BFLOAT16: "half_val",
    18: "dcomplex_val",
    19: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}
# Types whose typed field has the same bytes as `tensor_content`, and the field's tag. A packed bool is one byte.
_SAME_BYTES = {
    number: int(protos.TensorProto.DESCRIPTOR.fields_by_name[_FIELDS[number]].number) << 3 | 2
    for number in (1, 2, 8, 10, 18)
}
# A typed field of more numbers than this is read from its bytes.
_MANY = 64


class TensorError(ValueError):
    """A TensorProto cannot be read: unknown type, impossible shape, or data that does not fit the shape."""


def dtype_of(number: int) -> np.dtype[Any]:
    """Returns the NumPy type of a `tensorflow.DataType`; strings become objects that hold bytes.

    Raises:
        TensorError: this server does not support the type.
    """
    if number == _BFLOAT16:
        return _bfloat16()
    try:
        return _DTYPES[number]
    except KeyError:
        raise TensorError(f"{protos.data_type_name(number)} is not supported here; use DT_FLOAT") from None


def has_fixed_size(number: int) -> bool:
    """Tells whether each element of a `tensorflow.DataType` takes equally many bytes in an answer's typed field."""
    return number in _SAME_BYTES


@functools.cache
def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise TensorError("DT_BFLOAT16 needs the package ml_dtypes; use DT_FLOAT, or install it") from None
    return np.dtype(ml_dtypes.bfloat16)


def to_proto(array: NDArray[Any]) -> Any:
    """Returns `array` as a TensorProto.

    Raises:
        TensorError: TensorFlow has no type for the array's.
    """
    proto = protos.TensorProto()
    write(proto, array)
    return proto


def write(proto: Any, array: NDArray[Any], *, typed: bool = False) -> None:
    """Writes `array` into an empty TensorProto, such as one inside another message.

    Args:
        proto: the message.
        array: the tensor.
        typed: write the typed field, such as `float_val`, instead of `tensor_content`; strings always use theirs.

    Raises:
        TensorError: TensorFlow has no type for the array's.
    """
    _describe(proto, array, array.shape)
    if proto.dtype == STRING:
        proto.string_val.extend(value if isinstance(value, bytes) else str(value).encode() for value in array.flat)
    elif not typed:
        proto.tensor_content = content(array).tobytes()
    elif proto.dtype in _SAME_BYTES:
        numbers = content(array)
        proto.MergeFromString(wire.header(_SAME_BYTES[proto.dtype], len(numbers)) + numbers.tobytes())
    else:
        field = _FIELDS.get(proto.dtype, "int_val")
        values = array.view(np.uint16) if field == "half_val" else array
        getattr(proto, field).extend(values.ravel().tolist())


def response_parts(response: Any, outputs: Mapping[str, NDArray[Any]], *, typed: bool = True) -> list[wire.Buffer]:
    """Returns the bytes of a PredictResponse with these outputs, as parts to be sent one after another.

    The parts refer to the arrays' memory. Protobuf would copy each array three
    times; a message's fields may come in any order, so the outputs can be
    appended to the serialised rest.

    Args:
        response: the message, without outputs.
        outputs: by alias.
        typed: as for `write`.

    Raises:
        TensorError: as `write`.
    """
    parts: list[wire.Buffer] = [response.SerializeToString()]
    for alias, array in outputs.items():
        first = head(alias, array, typed=typed)
        parts.append(first)
        if _field_tag(_number_of(array), typed) is not None:
            parts.append(content(array))
    return parts


def head(alias: str, array: NDArray[Any], *, rows: int | None = None, typed: bool = True) -> bytes:
    """Returns the bytes of an output in a PredictResponse up to its `content`.

    Strings, and integers in a typed field, have no such content: then it returns the whole output.

    Args:
        alias: name of the output.
        array: the output.
        rows: write the header for this many rows instead of all; only for types of `has_fixed_size`.
        typed: as for `write`.

    Raises:
        TensorError: as `write`.
    """
    proto, size = protos.TensorProto(), 0
    tag = _field_tag(_number_of(array), typed)
    if tag is None:
        write(proto, array, typed=typed)
        tensor: bytes = proto.SerializeToString()
    else:
        shape = array.shape if rows is None else (rows, *array.shape[1:])
        _describe(proto, array, shape)
        size = math.prod(shape) * array.itemsize
        tensor = proto.SerializeToString() + wire.header(tag, size)
    name = alias.encode()
    entry = wire.header(wire.KEY, len(name)) + name + wire.header(wire.VALUE, len(tensor) + size) + tensor
    return wire.header(wire.OUTPUTS, len(entry) + size) + entry


def content(array: NDArray[Any]) -> memoryview:
    """Returns an array of numbers as the bytes of `tensor_content`: a view, or a copy if the layout differs."""
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def _field_tag(number: int, typed: bool) -> int | None:
    """Returns the tag of the field whose bytes are an answer's numbers; None if there is no such field."""
    if typed or number == STRING:
        return _SAME_BYTES.get(number)
    return wire.CONTENT


def _number_of(array: NDArray[Any]) -> int:
    """Returns the `tensorflow.DataType` of an array.

    Raises:
        TensorError: there is none.
    """
    if array.dtype.kind in "OSU":
        return STRING
    if array.dtype.name == "bfloat16":
        return _BFLOAT16
    number = _NUMBERS.get(array.dtype.newbyteorder("<"))
    if number is None:
        raise TensorError(f"arrays of {array.dtype} have no TensorFlow type; use float32")
    return number


def _describe(proto: Any, array: NDArray[Any], shape: Sequence[int]) -> None:
    proto.dtype = _number_of(array)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)


def from_proto(proto: Any, *, max_bytes: int, numbers: wire.Numbers | None = None) -> NDArray[Any]:
    """Returns a TensorProto as an array, which may be a read-only view of its bytes.

    Args:
        proto: the message.
        max_bytes: largest array to make, in bytes.
        numbers: its numbers, if they were cut out of the message (see `wire.read_predict`).

    Raises:
        TensorError: see the class.
    """
    dtype = dtype_of(proto.dtype)
    shape = _shape(proto.tensor_shape)
    count = math.prod(shape)
    # A zero must not hide the other sizes: NumPy refuses an array of shape [0, 2**40, 2**40].
    if math.prod(size or 1 for size in shape) * dtype.itemsize > max_bytes:
        raise TensorError(f"a tensor of shape {list(shape)} would take more than {max_bytes} bytes")
    if proto.tensor_content:
        numbers = wire.Numbers(wire.CONTENT, proto.tensor_content)
    if numbers is not None and numbers.tag == wire.CONTENT and numbers.data:
        return _from_content(numbers.data, dtype, shape, count)
    values = _typed_values(proto, dtype, numbers)
    given = len(values)
    if given > count:
        raise TensorError(f"{given} values do not fit a tensor of {count} elements")
    if given == count:
        return values.reshape(shape)
    # As in TensorFlow, the last value is repeated, and no value at all means zeros.
    last = values[-1:] if given else np.array([b"" if dtype.kind == "O" else 0]).astype(dtype)
    if given <= 1:  # takes no memory for what is repeated
        return np.broadcast_to(last.reshape(()), shape)
    array: NDArray[Any] = np.concatenate([values, np.broadcast_to(last, count - given)]).reshape(shape)
    return array


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


def _typed_values(proto: Any, dtype: np.dtype[Any], numbers: wire.Numbers | None) -> NDArray[Any]:
    """Returns the values of a tensor's typed field."""
    field = _FIELDS.get(proto.dtype, "int_val")
    values, tag = getattr(proto, field), _SAME_BYTES.get(proto.dtype)
    if tag is not None and tag in wire.FLOATS:
        if numbers is None and (len(values) > _MANY or dtype.kind == "c"):
            numbers = wire.numbers_of(proto, tag)
        if numbers is not None and numbers.tag == tag:
            if len(numbers.data) % dtype.itemsize:
                raise TensorError(f"{field} does not hold pairs of a real and an imaginary part")
            return np.frombuffer(numbers.data, dtype)
        if dtype.kind == "c":
            raise TensorError(f"complex numbers must be alone in {field}")
    if field == "half_val":
        bits = np.fromiter(values, np.int64, count=len(values))
        halves: NDArray[Any] = _narrowed(bits, np.dtype("<u2")).view(dtype)
        return halves
    # Small integers are sent as int32. They are read as int64, so that a value that is too large does not wrap.
    small = dtype.itemsize < 4 and dtype.kind in "iu"
    return _narrowed(np.fromiter(values, np.dtype("<i8") if small else dtype, count=len(values)), dtype)


def _narrowed(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if values.dtype == dtype:
        return values
    if len(values) and not np.array_equal(values, values.astype(dtype)):
        raise TensorError(f"values do not fit {dtype}")
    return values.astype(dtype)
