"""Protobuf's wire format, where protobuf itself would copy a tensor's numbers.

A large Predict request's fields are walked over, each tensor's `tensor_content` is
left where it lies, and protobuf reads the rest; what is not laid out as usual,
protobuf reads alone. `header` is what `tensors` writes answers with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.protocol import protos

Buffer = bytes | memoryview
# Bytes; below this, two copies cost less than walking over the fields (28 µs).
_LARGE = 1 << 18
# Fields looked at before a message is left to protobuf: one full of tiny fields must not keep Python busy.
_MOST_FIELDS = 256
_LENGTH, _VARINT, _FIXED = 2, 0, {1: 8, 5: 4}


def _tag(kind: Any, name: str) -> int:
    return kind.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH


# Tags on the wire: number and kind of a field.
CONTENT = _tag(protos.TensorProto, "tensor_content")
INPUTS, OUTPUTS = _tag(protos.PredictRequest, "inputs"), _tag(protos.PredictResponse, "outputs")
# Protobuf writes a map as messages of these two fields.
KEY, VALUE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH


@dataclass(frozen=True)
class Predict:
    """A Predict request.

    Attributes:
        message: the PredictRequest, without the contents below.
        contents: `tensor_content` of inputs, by alias, where it is not in the message.
    """

    message: Any
    contents: Mapping[str, memoryview] = field(default_factory=dict)

    @property
    def model_spec(self) -> Any:
        """The ModelSpec of the message."""
        return self.message.model_spec


def read_predict(data: Buffer, *, large: int = _LARGE) -> Predict:
    """Reads a PredictRequest; contents refer to `data`.

    Args:
        data: the message on the wire.
        large: messages of fewer bytes are left to protobuf.

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
    """Protobuf itself is to read, or refuse, this message."""


def _split(data: Buffer) -> tuple[bytes, dict[str, memoryview]]:
    """Returns a request without its tensors' contents, and these by alias."""
    walk, aliases = _Walk(data), set()
    parts: list[Buffer] = []
    contents: dict[str, memoryview] = {}
    for tag, at, body, end in walk.fields(0, len(data)):
        if tag != INPUTS:
            parts.append(data[at:end])
            continue
        alias, entry, content = _split_input(walk, body, end)
        if alias in aliases:  # protobuf takes the last one
            raise _UnusualError
        aliases.add(alias)
        if content is not None:
            contents[alias] = content
        parts += [header(INPUTS, len(entry)), entry]
    return b"".join(parts), contents


def _split_input(walk: _Walk, start: int, stop: int) -> tuple[str, bytes, memoryview | None]:
    """Returns the alias of an input, its map entry without the content, and the content."""
    fields = list(walk.fields(start, stop))
    found = {tag: places for tag, *places in fields}
    if len(fields) != 2 or set(found) != {KEY, VALUE}:
        raise _UnusualError
    parts: list[Buffer] = []
    contents: list[memoryview] = []
    for tag, at, body, end in walk.fields(*found[VALUE][1:]):
        if tag == CONTENT:
            contents.append(memoryview(walk.data)[body:end])
        else:
            parts.append(walk.data[at:end])
    if len(contents) > 1:
        raise _UnusualError
    at, body, end = found[KEY]
    tensor = b"".join(parts)
    try:
        alias = bytes(walk.data[body:end]).decode()
    except UnicodeDecodeError:
        raise _UnusualError from None
    return alias, bytes(walk.data[at:end]) + header(VALUE, len(tensor)) + tensor, contents[0] if contents else None


class _Walk:
    """Goes over the fields of a message and of those inside it."""

    def __init__(self, data: Buffer) -> None:
        self.data, self._left = data, _MOST_FIELDS

    def fields(self, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields tag, begin, begin of the value, and end of each field between two places."""
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
                if byte == 0 and at > start + 1:  # longer than need be: written anew, it would be another one
                    break
                return value, at
        raise _UnusualError


def header(tag: int, length: int) -> bytes:
    """Returns what stands before a field of so many bytes: its tag (up to 127), and the length as a varint."""
    result = bytearray([tag])
    while length > 127:
        result.append(length & 127 | 128)
        length >>= 7
    return bytes([*result, length])
