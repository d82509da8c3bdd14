"""Protobuf's wire format, read here so that a large tensor's numbers are not copied.

`read_predict` and `read_response` cut the numbers of each tensor out of a large Predict
request or response and give protobuf the small rest. The numbers may be in
`tensor_content`, or in a packed field such as `float_val`, which has the same bytes. A
message with an unusual layout (for example, an input given twice) is read by protobuf
alone, so the result is always protobuf's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from serving.protocol import protos

Buffer = bytes | memoryview
# In bytes. For a smaller message, protobuf's two copies cost less than finding the fields (28 µs).
_LARGE = 1 << 18
# A message with more fields than this is left to protobuf: a million tiny fields would take Python seconds.
_MOST_FIELDS = 256
_LENGTH, _VARINT, _FIXED = 2, 0, {1: 8, 5: 4}


def _tag(kind: Any, name: str) -> int:
    return int(kind.DESCRIPTOR.fields_by_name[name].number) << 3 | _LENGTH


# A tag is a field's number and its wire type in one integer.
CONTENT = _tag(protos.TensorProto, "tensor_content")
# Packed fields whose bytes are the numbers themselves, and the size of one number.
FLOATS = {
    _tag(protos.TensorProto, name): size
    for name, size in (("float_val", 4), ("double_val", 8), ("scomplex_val", 4), ("dcomplex_val", 8))
}
INPUTS, OUTPUTS = _tag(protos.PredictRequest, "inputs"), _tag(protos.PredictResponse, "outputs")
# Protobuf writes each entry of a map as a message with these two fields.
KEY, VALUE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH


class Numbers(NamedTuple):
    """The bytes of a tensor's numbers, and the tag of the field that holds them: `CONTENT` or one of `FLOATS`."""

    tag: int
    data: Buffer


@dataclass(frozen=True)
class Predict:
    """A Predict request or response.

    Attributes:
        message: the PredictRequest or PredictResponse, possibly without the numbers of its tensors.
        contents: the numbers that were cut out of the message, by alias.
    """

    message: Any
    contents: Mapping[str, Numbers] = field(default_factory=dict)

    @property
    def model_spec(self) -> Any:
        """The ModelSpec of the message."""
        return self.message.model_spec


def read_predict(data: Buffer, *, large: int = _LARGE) -> Predict:
    """Reads a PredictRequest; the contents it returns are views of `data`.

    Args:
        data: the serialised message.
        large: a message of fewer bytes is read by protobuf alone.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    return _read(protos.PredictRequest, INPUTS, data, large)


def read_response(data: Buffer, *, large: int = _LARGE) -> Predict:
    """Reads a PredictResponse, as `read_predict` reads a request."""
    return _read(protos.PredictResponse, OUTPUTS, data, large)


def _read(kind: Any, tensors: int, data: Buffer, large: int) -> Predict:
    if len(data) >= large:
        try:
            rest, contents = _split(data, tensors)
        except _UnusualError:
            pass
        else:
            return Predict(kind.FromString(rest), contents)
    return Predict(kind.FromString(bytes(data)))


def numbers_of(proto: Any, tag: int) -> Numbers | None:
    """Returns the numbers of a TensorProto's packed field; None if the message has too many other fields.

    Reading protobuf's repeated field element by element takes thirty times as long.
    """
    reader = _FieldReader(proto.SerializeToString())
    try:
        places = [(at, end) for found, _, at, end in reader.fields() if found == tag]
    except _UnusualError:
        return None
    return Numbers(tag, b"".join(reader.data[at:end] for at, end in places))


class _UnusualError(Exception):
    """The message has an unusual layout, so protobuf must read or refuse it."""


def _split(data: Buffer, tensors: int) -> tuple[bytes, dict[str, Numbers]]:
    """Returns the bytes of a message without its tensors' numbers, and those numbers by alias."""
    reader, aliases = _FieldReader(data), set()
    parts: list[Buffer] = []
    contents: dict[str, Numbers] = {}
    for tag, at, body, end in reader.fields():
        if tag != tensors:
            parts.append(data[at:end])
            continue
        alias, entry, numbers = _split_entry(reader, body, end)
        if alias in aliases:  # protobuf takes the last one
            raise _UnusualError
        aliases.add(alias)
        if numbers is not None:
            contents[alias] = numbers
        parts += [header(tensors, len(entry)), entry]
    return b"".join(parts), contents


def _split_entry(reader: _FieldReader, start: int, stop: int) -> tuple[str, bytes, Numbers | None]:
    """Returns a tensor's alias, its map entry without the tensor's numbers, and those numbers."""
    fields = list(reader.fields(start, stop))
    found = {tag: places for tag, *places in fields}
    if len(fields) != 2 or set(found) != {KEY, VALUE}:
        raise _UnusualError
    parts: list[Buffer] = []
    numbers: list[Numbers] = []
    for tag, at, body, end in reader.fields(*found[VALUE][1:]):
        if tag == CONTENT or tag in FLOATS:
            numbers.append(Numbers(tag, memoryview(reader.data)[body:end]))
        else:
            parts.append(reader.data[at:end])
    if len(numbers) > 1 or any(len(data) % FLOATS.get(tag, 1) for tag, data in numbers):
        raise _UnusualError
    at, body, end = found[KEY]
    tensor = b"".join(parts)
    try:
        alias = bytes(reader.data[body:end]).decode()
    except UnicodeDecodeError:
        raise _UnusualError from None
    return alias, bytes(reader.data[at:end]) + header(VALUE, len(tensor)) + tensor, numbers[0] if numbers else None


class _FieldReader:
    """Finds the fields of a message and of the messages inside it."""

    def __init__(self, data: Buffer) -> None:
        self.data, self._left = data, _MOST_FIELDS

    def fields(self, at: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, int, int]]:
        """Yields (tag, start, start of the value, end) for each field between two offsets."""
        stop = len(self.data) if stop is None else stop
        while at < stop:
            self._left -= 1
            tag, body = self._varint(at, stop)
            kind = tag & 7
            if kind == _LENGTH:
                size, body = self._varint(body, stop)
                end = body + size
            elif kind == _VARINT:
                _, end = self._varint(body, stop)
            else:
                end = body + _FIXED.get(kind, stop)
            if end > stop or self._left < 0:
                raise _UnusualError
            yield tag, at, body, end
            at = end

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        value, start = 0, at
        while at < min(stop, start + 10):
            byte = self.data[at]
            value |= (byte & 127) << 7 * (at - start)
            at += 1
            if byte < 128:
                if byte == 0 and at > start + 1:  # longer than needed, so its re-encoding would differ
                    break
                return value, at
        raise _UnusualError


def header(tag: int, length: int) -> bytes:
    """Returns a field's header: its tag (at most 127), and the length of its value as a varint."""
    result = bytearray([tag])
    while length > 127:
        result.append(length & 127 | 128)
        length >>= 7
    return bytes([*result, length])
