"""Damaged and changed datasets: errors that name the shard, and what can be saved."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from tfpipe.data.damage import salvage, translate_input_errors
from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.records import read_records, write_record
from tfpipe.errors import DatasetError


def keys(dataset: tf.data.Dataset) -> list[bytes]:
    return [key for batch in dataset.as_numpy_iterator() for key in batch["key"]]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture
def damaged(dataset: Path, tmp_path: Path) -> tuple[Path, Path, int]:
    """A copy whose third training example has a flipped bit; also its shard and the number of its examples."""
    copy = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    shard = load_manifest(copy).split_shards("train")[0]
    flip(copy / shard.name, len(next(read_records(copy / shard.name))) * 2 + 500)
    return copy, copy / shard.name, shard.examples


def test_a_damaged_shard_is_named_with_its_place(damaged: tuple[Path, Path, int]) -> None:
    folder, shard, _ = damaged
    manifest = load_manifest(folder)
    with (
        pytest.raises(DatasetError, match=rf"{shard}: damaged record at byte \d+ .*--on-corrupt skip"),
        translate_input_errors(folder, manifest, split="train"),
    ):
        keys(make_dataset(folder, split="train", batch_size=4, seed=0))


def test_salvage_keeps_what_comes_before_the_damage(damaged: tuple[Path, Path, int], dataset: Path) -> None:
    folder, shard, examples = damaged
    manifest, lost = salvage(folder, load_manifest(folder), split="train")
    (sentence,) = lost
    assert str(shard) in sentence
    assert f"{examples - 2} of its {examples} examples are left out" in sentence
    left = manifest.examples("train")
    assert left == load_manifest(dataset).examples("train") - examples + 2
    assert len(keys(make_dataset(folder, split="train", batch_size=4, seed=0, manifest=manifest))) == left
    (folder / shard.name).unlink()
    manifest, (sentence,) = salvage(folder, load_manifest(folder), split="train")
    assert "the shard is gone" in sentence
    assert manifest.examples("train") == left - 2
    whole, none = salvage(dataset, load_manifest(dataset), split="train")
    assert (whole, none) == (load_manifest(dataset), [])


@pytest.mark.parametrize("change", ["gone", "shorter", "rebuilt"])
def test_a_dataset_that_changes_under_a_reader_is_noticed(dataset: Path, tmp_path: Path, change: str) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    manifest = load_manifest(copy)
    path = copy / manifest.split_shards("train")[0].name
    words = {"gone": "the shard is gone", "shorter": r"ends after \d+ examples", "rebuilt": "now holds another dataset"}
    batches = make_dataset(copy, split="train", batch_size=4, seed=0)
    if change == "shorter":
        records = list(read_records(path))[:1]
        with open(path, "wb") as file:
            for record in records:
                write_record(file, record)
    else:
        path.unlink()
    if change == "rebuilt":
        other = dataclasses.replace(manifest, shards=manifest.shards[1:])
        (copy / "dataset.json").write_text(json.dumps(other.to_dict()))
    with pytest.raises(DatasetError, match=words[change]), translate_input_errors(copy, manifest, split="train"):
        keys(batches)
