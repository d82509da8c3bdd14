"""How much memory a request takes once it is read, found before anything is allocated.

A request of a few bytes can become large: a tensor that repeats one value, or a
message of many small parts, each of which becomes an object.
"""

from __future__ import annotations

import math
from typing import Any

from serving.protocol import protos, tensors
from serving.protocol.wire import Buffer, Predict

# Bytes that protobuf keeps for each field of a message, at most; an empty message in a list takes 108.
_FIELD_BYTES = 128
# This many fields of a message are read: one for every `_BYTES_OF_FIELD` bytes, within these bounds. The bytes after
# them are counted as the worst case, which is fields of two bytes each.
_FEWEST_FIELDS, _MOST_FIELDS, _BYTES_OF_FIELD = 4096, 65_536, 256
_WORST = _FIELD_BYTES // 2
# A packed number takes at least one byte of a message. Once read it takes eight bytes, in protobuf and again in NumPy.
_PACKED = 16
# Bytes that a string takes besides its own, in NumPy and in TensorFlow.
_STRING_BYTES = 64
_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}


def parsed_bytes(kind: Any, data: Buffer) -> int:
    """Returns about how many bytes a message takes once protobuf has read it.

    The estimate may be too high, but it is never much too low.

    Args:
        kind: the message's class.
        data: the serialised message. If it is not valid, protobuf will refuse it later.
    """
    left = min(_MOST_FIELDS, max(_FEWEST_FIELDS, len(data) // _BYTES_OF_FIELD))
    total = 0
    waiting = [(kind.DESCRIPTOR, 0, len(data))]
    while waiting:
        descriptor, at, stop = waiting.pop()
        while at < stop:
            left -= 1
            tag, body = _varint(data, at, stop)
            wire = tag & 7
            if left < 0 or body < 0 or wire not in (_VARINT, _LENGTH, *_FIXED):
                return total + _WORST * (stop - at + sum(end - start for _, start, end in waiting))
            total += _FIELD_BYTES
            if wire != _LENGTH:
                at = body + _FIXED[wire] if wire in _FIXED else max(_varint(data, body, stop)[1], body + 1)
                continue
            size, body = _varint(data, body, stop)
            if body < 0 or size > stop - body:
                return total + stop - at
            at = body + size
            field = descriptor.fields_by_number.get(tag >> 3)
            if field is not None and field.message_type is not None:
                waiting.append((field.message_type, body, at))
            else:
                total += size * (_PACKED if field is not None and field.type in _VARINTS else 1)
    return total


def array_bytes(request: Predict, *, largest: int) -> int:
    """Returns how many bytes the inputs of a request take as arrays, without those that are views of the message.

    Args:
        request: the request.
        largest: a single array of more bytes is refused when it is read, so it is not counted here.
    """
    total = 0
    for alias, proto in request.message.inputs.items():
        if alias in request.contents or proto.tensor_content or len(proto.tensor_shape.dim) > 32:
            continue
        count = math.prod(max(0, dim.size) for dim in proto.tensor_shape.dim)
        if proto.dtype == tensors.STRING:
            last = len(proto.string_val[-1]) if proto.string_val else 0
            repeated = max(0, count - len(proto.string_val))
            total += count * _STRING_BYTES + repeated * last + sum(map(len, proto.string_val))
            continue
        try:
            size = count * tensors.dtype_of(proto.dtype).itemsize
        except tensors.TensorError:
            continue
        total += size if size <= largest else 0
    return total


def _varint(data: Buffer, at: int, stop: int) -> tuple[int, int]:
    """Returns a number and where it ends, or -1 if it does not end."""
    value, shift = 0, 0
    for place in range(at, min(stop, at + 10)):
        byte = data[place]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place + 1
    return 0, -1


# Numbers of protobuf's types whose values are varints: int64, uint64, int32, bool, uint32, enum, sint32, sint64.
_VARINTS = frozenset((3, 4, 5, 8, 13, 14, 17, 18))


def row_bytes(info: Any) -> int:
    """Returns the bytes of a row of an input or output, where its TensorInfo says them; an open size counts as 1."""
    sizes: list[int] = [max(1, dim.size) for dim in info.tensor_shape.dim[1:]]
    try:
        return math.prod(sizes) * int(tensors.dtype_of(info.dtype).itemsize)
    except tensors.TensorError:  # the signature is refused, so no row has this type
        return 0


def is_sized(info: Any) -> bool:
    """Tells whether the TensorInfo of an input or output says how many bytes a row takes."""
    return protos.data_type_name(info.dtype) != "DT_STRING" and all(dim.size >= 0 for dim in info.tensor_shape.dim[1:])
