"""Reads and writes examples and TFRecord files without TensorFlow.

Beam workers and `tfpipe verify` would pay for TensorFlow's start-up time and
memory without using it. The schema is fixed (see `Example`), and the same
example always gives the same bytes.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from tfpipe.errors import DatasetError
from tfpipe.files.remote import open_read, stamp

# The variant of a window that is as it was recorded.
ORIGINAL_NAME = "original"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training example: a variant of one window.

    Attributes:
        mel: `[n_mels, frames]` uint8 codes of the log-mel (`features.quantise`).
        ref_db: level of the window's maximum in dB.
        label: index into the manifest's labels.
        track: content hash of the track, hex.
        start_s: start of the window in the track, in s.
        variant: what was done to the window, such as `original` or `shift+4`; enough to do it again.
        key: unique and stable; shards are in key order.
    """

    mel: NDArray[np.uint8]
    ref_db: float
    label: int
    track: str
    start_s: float
    variant: str
    key: str


def is_original(key: str) -> bool:
    """Tells whether the example with this key is a window as it was recorded; a key ends with the variant's name."""
    return key.endswith(f"/{ORIGINAL_NAME}")


def encode_example(example: Example) -> bytes:
    """Serialises an example as a `tf.train.Example`; the same example always gives the same bytes."""
    message = _example_class()()
    feature = message.features.feature
    feature["mel"].bytes_list.value.append(np.ascontiguousarray(example.mel, dtype=np.uint8).tobytes())
    feature["ref_db"].float_list.value.append(example.ref_db)
    feature["label"].int64_list.value.append(example.label)
    feature["track"].bytes_list.value.append(example.track.encode())
    feature["start_s"].float_list.value.append(example.start_s)
    feature["variant"].bytes_list.value.append(example.variant.encode())
    feature["key"].bytes_list.value.append(example.key.encode())
    return bytes(message.SerializeToString(deterministic=True))


def decode_example(data: bytes, mel_shape: tuple[int, int]) -> Example:
    """Parses the output of `encode_example`.

    Args:
        data: one record.
        mel_shape: `(n_mels, frames)` of the dataset's spec.

    Raises:
        DatasetError: the record is not an example of this schema and shape.
    """
    try:
        message = _example_class().FromString(data)
        feature = message.features.feature
        mel = np.frombuffer(feature["mel"].bytes_list.value[0], dtype=np.uint8).reshape(mel_shape)
        return Example(
            mel=mel,
            ref_db=feature["ref_db"].float_list.value[0],
            label=feature["label"].int64_list.value[0],
            track=feature["track"].bytes_list.value[0].decode(),
            start_s=feature["start_s"].float_list.value[0],
            variant=feature["variant"].bytes_list.value[0].decode(),
            key=feature["key"].bytes_list.value[0].decode(),
        )
    except Exception as error:  # the base class of protobuf's DecodeError depends on its version
        raise DatasetError(f"record is not an example of shape {list(mel_shape)}: {error}") from error


class Writable(Protocol):
    """Anything that bytes can be written to: a file, or a writer that counts them."""

    def write(self, data: bytes, /) -> object:
        """Writes all of `data`."""


def write_record(file: Writable, data: bytes) -> int:
    """Appends one TFRecord (length, CRC of the length, data, CRC of the data); returns the number of bytes written."""
    file.write(record_header(len(data)) + data + masked_crc(data))
    return len(data) + 16


def read_records(
    path: Path | str, *, on_bytes: Callable[[bytes], object] = lambda _: None, max_bytes: int | None = None
) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, and checks both CRCs of each.

    Args:
        path: the file, local or a URL.
        on_bytes: called with all bytes that are read, in order, for a checksum of the file.
        max_bytes: largest record that is read into memory, in bytes; None takes any.

    Raises:
        DatasetError: at the first damage; the message names the file and the byte offset.
        OSError: the file cannot be read.
    """
    size, _ = stamp(path)
    offset = 0
    with open_read(path) as file:
        while header := file.read(12):
            if len(header) < 12 or masked_crc(header[:8]) != header[8:]:
                raise DatasetError(f"{path}: damaged record header at byte {offset}")
            (length,) = struct.unpack("<Q", header[:8])
            if length > size - offset - 16:
                raise DatasetError(f"{path}: breaks off inside the record at byte {offset}")
            if max_bytes is not None and length > max_bytes:
                raise DatasetError(f"{path}: the record at byte {offset} has {length} bytes, more than {max_bytes}")
            data, crc = file.read(length), file.read(4)
            if masked_crc(data) != crc:
                raise DatasetError(f"{path}: damaged record at byte {offset} (checksum differs)")
            on_bytes(header + data + crc)
            yield data
            offset += length + 16


@functools.lru_cache(256)
def record_header(length: int) -> bytes:
    """Returns the first bytes of a TFRecord with so many bytes of data: the length and its CRC."""
    plain = struct.pack("<Q", length)
    return plain + masked_crc(plain)


def masked_crc(data: bytes | NDArray[np.uint8]) -> bytes:
    """Returns TFRecord's rotated CRC-32C of some bytes, little-endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _example_class() -> Any:
    """Builds `tf.train.Example` in a descriptor pool of its own, so that it cannot clash with TensorFlow's."""
    file = descriptor_pb2.FileDescriptorProto(name="tfpipe/example.proto", package="tfpipe", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        feature.field.add(
            name=name.replace("List", "_list").lower(),
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".tfpipe.{name}",
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".tfpipe.Feature", label=field.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tfpipe.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features", number=1, type=field.TYPE_MESSAGE, type_name=".tfpipe.Features", label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfpipe.Example"))
