"""Protobuf's wire format, read here so that a large tensor's numbers are not copied.

`read_predict` cuts each `tensor_content` out of a large Predict request and gives
protobuf the small rest. A request with an unusual layout (for example, an input
given twice) is read by protobuf alone, so the result is always protobuf's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
INPUTS, OUTPUTS = _tag(protos.PredictRequest, "inputs"), _tag(protos.PredictResponse, "outputs")
# Protobuf writes each entry of a map as a message with these two fields.
KEY, VALUE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH


@dataclass(frozen=True)
class Predict:
    """A Predict request.

    Attributes:
        message: the PredictRequest, possibly without the `tensor_content` of its inputs.
        contents: the `tensor_content` that was cut out of the message, by input alias.
    """

    message: Any
    contents: Mapping[str, memoryview] = field(default_factory=dict)

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
    if len(data) >= large:
        try:
            rest, contents = _split(data)
        except _UnusualError:
            pass
        else:
            return Predict(protos.PredictRequest.FromString(rest), contents)
    return Predict(protos.PredictRequest.FromString(bytes(data)))


class _UnusualError(Exception):
    """The message has an unusual layout, so protobuf must read or refuse it."""


def _split(data: Buffer) -> tuple[bytes, dict[str, memoryview]]:
    """Returns the bytes of a request without its tensors' contents, and those contents by alias."""
    reader, aliases = _FieldReader(data), set()
    parts: list[Buffer] = []
    contents: dict[str, memoryview] = {}
    for tag, at, body, end in reader.fields(0, len(data)):
        if tag != INPUTS:
            parts.append(data[at:end])
            continue
        alias, entry, content = _split_input(reader, body, end)
        if alias in aliases:  # protobuf takes the last one
            raise _UnusualError
        aliases.add(alias)
        if content is not None:
            contents[alias] = content
        parts += [header(INPUTS, len(entry)), entry]
    return b"".join(parts), contents


def _split_input(reader: _FieldReader, start: int, stop: int) -> tuple[str, bytes, memoryview | None]:
    """Returns an input's alias, its map entry without the tensor's content, and that content."""
    fields = list(reader.fields(start, stop))
    found = {tag: places for tag, *places in fields}
    if len(fields) != 2 or set(found) != {KEY, VALUE}:
        raise _UnusualError
    parts: list[Buffer] = []
    contents: list[memoryview] = []
    for tag, at, body, end in reader.fields(*found[VALUE][1:]):
        if tag == CONTENT:
            contents.append(memoryview(reader.data)[body:end])
        else:
            parts.append(reader.data[at:end])
    if len(contents) > 1:
        raise _UnusualError
    at, body, end = found[KEY]
    tensor = b"".join(parts)
    try:
        alias = bytes(reader.data[body:end]).decode()
    except UnicodeDecodeError:
        raise _UnusualError from None
    return alias, bytes(reader.data[at:end]) + header(VALUE, len(tensor)) + tensor, contents[0] if contents else None


class _FieldReader:
    """Finds the fields of a message and of the messages inside it."""

    def __init__(self, data: Buffer) -> None:
        self.data, self._left = data, _MOST_FIELDS

    def fields(self, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields (tag, start, start of the value, end) for each field between two offsets."""
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
