"""Examples and TFRecord files: what is written is read again, and damage is found at its place."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from dataset_tools import TINY_SPEC, example

from tfpipe.data.records import decode_example, encode_example, read_records, write_record
from tfpipe.errors import DatasetError


def write(path: Path, count: int) -> list[int]:
    """Writes examples; returns the bytes of each record."""
    with open(path, "wb") as file:
        return [write_record(file, encode_example(example(number))) for number in range(count)]


def test_an_example_is_read_again_and_always_has_the_same_bytes() -> None:
    row = example(5, label=1, variant="chord:major")
    data = encode_example(row)
    assert data == encode_example(dataclasses.replace(row, mel=row.mel.copy(order="F")))
    read = decode_example(data, TINY_SPEC.mel_shape)
    assert np.array_equal(read.mel, row.mel)
    assert dataclasses.replace(read, mel=row.mel, start_s=row.start_s) == row
    assert read.start_s == pytest.approx(row.start_s)


@pytest.mark.parametrize("data", [b"", b"no example", encode_example(example(1))])
def test_what_is_no_example_of_the_shape_is_refused(data: bytes) -> None:
    with pytest.raises(DatasetError, match=r"not an example of shape \[128, 216\]"):
        decode_example(data, (128, 216))


def test_a_file_is_read_again_with_all_its_bytes(tmp_path: Path) -> None:
    sizes = write(tmp_path / "x.tfrecord", 3)
    sha256 = hashlib.sha256()
    rows = [
        decode_example(data, TINY_SPEC.mel_shape)
        for data in read_records(str(tmp_path / "x.tfrecord"), on_bytes=sha256.update)
    ]
    assert [row.ref_db for row in rows] == [0.0, 1.0, 2.0]
    content = (tmp_path / "x.tfrecord").read_bytes()
    assert len(content) == sum(sizes)
    assert sha256.digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (0, "damaged record header at byte {}"),
        (9, "damaged record header at byte {}"),
        (20, "damaged record at byte {}"),
    ],
)
def test_a_flipped_bit_is_found_in_its_record(tmp_path: Path, place: int, words: str) -> None:
    path = tmp_path / "x.tfrecord"
    first = write(path, 3)[0]
    data = bytearray(path.read_bytes())
    data[first + place] ^= 1
    path.write_bytes(data)
    records = read_records(path)
    next(records)
    with pytest.raises(DatasetError, match=rf"x\.tfrecord: {words.format(first)}"):
        next(records)


@pytest.mark.parametrize(("left", "words"), [(5, "damaged record header"), (30, "breaks off inside the record")])
def test_a_file_that_breaks_off_is_an_error(tmp_path: Path, left: int, words: str) -> None:
    path = tmp_path / "x.tfrecord"
    first = write(path, 2)[0]
    path.write_bytes(path.read_bytes()[: first + left])
    records = read_records(path)
    next(records)
    with pytest.raises(DatasetError, match=f"{words} at byte {first}"):
        next(records)
