"""Cuts what training needs out of serialised examples, without parsing all of each. Does not load TensorFlow."""

from __future__ import annotations

import dataclasses
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.records import Example, decode_example, encode_example

_FLOAT = struct.Struct("<f")
_LEVEL = 1.5
# A dataset has about one layout for each length of a variant's name.
_MOST_LAYOUTS = 1000


class Fields(NamedTuple):
    """What training needs of an example: `mel` row-major uint8 codes, `ref_db` in dB, `label` and `key`."""

    mel: bytes | memoryview
    ref_db: float
    label: int
    key: bytes


class Rows(NamedTuple):
    """Examples in memory: `mel` `[n, n_mels, frames, 1]` uint8, `ref_db` `[n]` dB, `label` `[n]` and `key`, a list."""

    mel: NDArray[np.uint8]
    ref_db: NDArray[np.float32]
    label: NDArray[np.int64]
    key: list[bytes]


class Layout(NamedTuple):
    """Where the fields are in the records of one length, and the bytes between them, which are always the same."""

    key: slice
    label: int
    mel: slice
    ref_db: int
    between: tuple[tuple[slice, bytes], ...]


_LAYOUTS: dict[tuple[int, tuple[int, int]], Layout | None] = {}


def cut(data: bytes, mel_shape: tuple[int, int]) -> Fields:
    """Returns the fields of a serialised example.

    A record of the preprocessing job is cut at places that follow from its length. All bytes between the fields are
    compared, and any other record is parsed.

    Args:
        data: the record; its checksum must have been checked.
        mel_shape: `(n_mels, frames)` of the dataset's spec.

    Raises:
        DatasetError: the record is not an example of this schema and shape.
    """
    layout = _LAYOUTS.get((len(data), mel_shape))
    if layout is not None and all([data[place] == wanted for place, wanted in layout.between]):
        (ref_db,) = _FLOAT.unpack_from(data, layout.ref_db)
        return Fields(memoryview(data)[layout.mel], ref_db, data[layout.label], data[layout.key])
    example = decode_example(data, mel_shape)
    if layout is None and len(_LAYOUTS) < _MOST_LAYOUTS and encode_example(example) == data:
        _LAYOUTS[len(data), mel_shape] = _layout_of(example)
    return Fields(example.mel.tobytes(), example.ref_db, example.label, example.key.encode())


def known_layout(length: int, mel_shape: tuple[int, int]) -> Layout | None:
    """Returns the layout of records with this many bytes of data, if one of them has been seen."""
    return _LAYOUTS.get((length, mel_shape))


def layout_of(data: bytes, mel_shape: tuple[int, int]) -> Layout | None:
    """Returns where the fields are in records of the same length as this one; None if each must be parsed.

    Raises:
        DatasetError: the record is not an example of this schema and shape.
    """
    known = len(data), mel_shape
    if known not in _LAYOUTS:
        cut(data, mel_shape)
    return _LAYOUTS.get(known)


def cut_rest(rest: NDArray[np.uint8], numbers: NDArray[np.int64], layout: Layout, rows: Rows) -> NDArray[np.bool_]:
    """Cuts all fields but the mel out of many records of one length.

    Args:
        rest: `[n, bytes]`, the bytes of records before and after the mel.
        numbers: `[k]`, which of them have this layout.
        layout: where the fields are.
        rows: where the fields go.

    Returns:
        `[k]`, which of these are records of the preprocessing job; the others must be parsed.
    """
    gone = layout.mel.stop - layout.mel.start  # so much nearer are the bytes that follow the mel

    def found(place: slice) -> NDArray[np.uint8]:
        back = gone if place.start >= layout.mel.stop else 0
        return rest[numbers, place.start - back : place.stop - back]

    are_ours = np.ones(len(numbers), np.bool_)
    for place, wanted in layout.between:
        are_ours &= (found(place) == np.frombuffer(wanted, np.uint8)).all(axis=1)
    rows.ref_db[numbers] = found(slice(layout.ref_db, layout.ref_db + _FLOAT.size)).view("<f4")[:, 0]
    rows.label[numbers] = found(slice(layout.label, layout.label + 1))[:, 0]
    for row, key in zip(numbers.tolist(), found(layout.key), strict=True):
        rows.key[row] = key.tobytes()
    return are_ours


def _layout_of(example: Example) -> Layout | None:
    """Returns the layout of the records that are like this example, None if a field in it has an unusual size.

    It is found by writing two such examples that differ in every byte of key, label and mel.
    """
    key = example.key.encode()
    if not key or len(key) != len(example.key) or not 0 <= example.label < 128:
        return None
    zero, one = (
        encode_example(
            dataclasses.replace(
                example,
                key=letter * len(key),
                label=code,
                mel=np.full(example.mel.shape, code, np.uint8),
                ref_db=_LEVEL,
            )
        )
        for letter, code in (("a", 0x55), ("b", 0x2A))
    )
    differing = np.flatnonzero(np.frombuffer(zero, np.uint8) != np.frombuffer(one, np.uint8))
    key_at, label, mel = (int(differing[place]) for place in (0, len(key), len(key) + 1))
    key_end, mel_end = key_at + len(key), mel + example.mel.size
    ref_db = zero.index(_FLOAT.pack(_LEVEL), mel_end)
    gaps = [(0, key_at), (key_end, label), (label + 1, mel), (mel_end, ref_db)]
    between = tuple((slice(start, end), zero[start:end]) for start, end in gaps)
    return Layout(slice(key_at, key_end), label, slice(mel, mel_end), ref_db, between)
