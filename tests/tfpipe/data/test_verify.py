"""Verification: a whole dataset has no problem, and every kind of damage is named with its file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_tools import example, write_dataset

from tfpipe.data.records import encode_example, write_record
from tfpipe.data.verify import verify
from tfpipe.errors import DatasetError

FIRST, SECOND = "train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"


def dataset(folder: Path, first: tuple[int, ...] = (0, 1), second: tuple[int, ...] = (2,), label: int = 0) -> Path:
    write_dataset(folder, {FIRST: [example(n, label=label) for n in first], SECOND: [example(n) for n in second]})
    return folder


def test_a_whole_dataset_has_no_problem(tmp_path: Path) -> None:
    seen: list[str] = []
    assert verify(str(dataset(tmp_path / "data")), on_shard=lambda shard: seen.append(shard.name)) == []
    assert seen == [FIRST, SECOND]


def test_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no complete dataset here"):
        verify(tmp_path)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def _replace(path: Path) -> None:
    """Other examples of the same size: each record is right, the file is another one."""
    with open(path, "wb") as file:
        for number in (0, 1):
            row = example(number, variant="shift+99")
            write_record(file, encode_example(row))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), ["missing shard"]),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), ["bytes, the manifest says"]),
        (_flip, ["damaged record at byte 0"]),
        (_replace, ["differs from the manifest's checksum", "its variants are not those"]),
        (lambda path: path.with_name("test-00000-of-00001.tfrecord").touch(), ["not in the manifest (extra shard)"]),
    ],
    ids=["missing", "longer", "flipped bit", "replaced", "extra"],
)
def test_damage_is_named_with_its_file(tmp_path: Path, damage: Callable[[Path], object], words: list[str]) -> None:
    folder = dataset(tmp_path / "data")
    damage(folder / FIRST)
    problems = verify(folder)
    assert len(problems) == len(words)
    for problem, expected in zip(problems, words, strict=True):
        assert expected in problem
        assert problem.startswith(str(folder))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((1, 0), (2,), f"{FIRST}: example .* is not in key order"),
        ((0, 1), (1,), f"{SECOND}: example .* is in the dataset twice"),
        ((1, 2), (0,), f"{SECOND}: example .* is not in key order"),
    ],
)
def test_keys_ascend_through_the_shards_of_a_split(
    tmp_path: Path, first: tuple[int, ...], second: tuple[int, ...], words: str
) -> None:
    (problem,) = verify(dataset(tmp_path / "data", first, second))
    assert re.search(words, problem)


def test_a_label_that_does_not_exist_is_named(tmp_path: Path) -> None:
    problems = verify(dataset(tmp_path / "data", label=2))
    assert len(problems) == 2
    assert all("has label 2, but the dataset has 2 labels" in problem for problem in problems)
