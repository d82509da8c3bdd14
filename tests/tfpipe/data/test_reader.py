"""Reading examples at any place: offsets from the manifest or from a pass, damage, and one example by its key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from dataset_tools import TINY_SPEC, example, write_dataset

from tfpipe.data import offsets
from tfpipe.data import reader as reader_module
from tfpipe.data.fields import cut
from tfpipe.data.lookup import read
from tfpipe.data.manifest import Manifest, load_manifest
from tfpipe.data.order import Places
from tfpipe.data.reader import Reader
from tfpipe.data.records import encode_example, read_records
from tfpipe.errors import DatasetError

VARIANTS = ("chord:major", "original", "shift+12", "shift+4")
NAMES = ("train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord")


@pytest.fixture(autouse=True, params=["compiled", "in Python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of reading give the same."""
    if request.param == "in Python":
        monkeypatch.setattr(reader_module, "read_compiled", None)
    elif reader_module.read_compiled is None:
        pytest.skip("the compiled modules are not built")


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Manifest]:
    """Two shards as the job writes them: every window in every variant."""
    rows = [example(number, variant=name, label=number % 2) for number in range(20) for name in VARIANTS]
    return tmp_path, write_dataset(tmp_path, {NAMES[0]: rows[:48], NAMES[1]: rows[48:]})


def places(count: int) -> Places:
    return Places(np.zeros(count, np.int64), np.arange(count))


def test_offsets_follow_from_the_manifest(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    for shard in manifest.shards:
        found = offsets.computed(shard, manifest.spec, labels=2)
        assert isinstance(found, offsets.Period)
        table = offsets.scanned(str(folder / shard.name), shard.examples)
        assert [found.at(number) for number in range(shard.examples + 1)] == table.starts.tolist()
        assert table.at(shard.examples) == shard.bytes
        assert len(set(np.diff(table.starts))) == 3  # so the sizes differ


def test_rows_are_what_a_parser_finds(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    reader = Reader(folder, manifest, "train")
    backwards = np.arange(47, -1, -1)
    rows = reader.rows(Places(np.zeros(48, np.int64), backwards))
    examples = list(read_examples(folder / NAMES[0]))[::-1]
    assert rows.key == [row.key.encode() for row in examples]
    assert rows.label.tolist() == [row.label for row in examples]
    np.testing.assert_array_equal(rows.ref_db, np.array([row.ref_db for row in examples], np.float32))
    np.testing.assert_array_equal(rows.mel[..., 0], [row.mel for row in examples])
    # A second reading cuts all records at known places.
    for data in read_records(folder / NAMES[0]):
        fields, again = (cut(data, TINY_SPEC.mel_shape) for _ in range(2))
        assert (bytes(fields.mel), *fields[1:]) == (bytes(again.mel), *again[1:])


def read_examples(path: Path):
    from tfpipe.data.records import decode_example

    return (decode_example(data, TINY_SPEC.mel_shape) for data in read_records(path))


@pytest.mark.parametrize("length", ["odd keys", "fields in another order", "many labels"])
def test_records_of_other_programs_are_read_too(tmp_path: Path, length: str) -> None:
    """Their sizes do not repeat as the manifest lets one expect, or their bytes are in another order."""
    rows = [example(number) for number in range(9)]
    if length == "odd keys":
        rows = [dataclasses.replace(row, key=f"{number:04d}" + "x" * number) for number, row in enumerate(rows)]
    if length == "many labels":
        rows = [dataclasses.replace(row, label=number * 40) for number, row in enumerate(rows)]
    manifest = write_dataset(tmp_path, {NAMES[0]: rows}, labels=tuple(f"label {number}" for number in range(400)))
    if length == "fields in another order":
        manifest = rewritten(tmp_path, manifest)
    found = Reader(tmp_path, manifest, "train").rows(places(9))
    assert found.key == [row.key.encode() for row in rows]
    assert found.label.tolist() == [row.label for row in rows]
    np.testing.assert_array_equal(found.mel[..., 0], [row.mel for row in rows])


def rewritten(folder: Path, manifest: Manifest) -> Manifest:
    """Puts the last feature of each record first, which is the same example for a parser."""
    from tfpipe.data.records import write_record

    records = list(read_records(folder / NAMES[0]))
    with open(folder / NAMES[0], "wb") as file:
        for data in records:
            # The message has one field of two length bytes at most; its last entry is the variant.
            at = data.rindex(b"\x0a\x07variant") - 2
            body = data.index(b"\x0a", 1)
            write_record(file, data[:body] + data[at:] + data[body:at])
    return manifest


def test_a_wrong_guess_is_corrected_by_a_pass(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    shards = tuple(dataclasses.replace(shard, variants={}, bytes=48 * 100) for shard in manifest.shards[:1])
    reader = Reader(folder, dataclasses.replace(manifest, shards=shards), "train")
    assert isinstance(reader.where(0), offsets.Period)
    assert reader.rows(places(48)).key == [row.key.encode() for row in read_examples(folder / NAMES[0])]
    assert isinstance(reader.where(0), offsets.Table)


@pytest.mark.parametrize("place", [3, 300, -3])
def test_damage_is_told_with_the_shard(made: tuple[Path, Manifest], place: int) -> None:
    folder, manifest = made
    path = folder / NAMES[0]
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=str(path)):
        Reader(folder, manifest, "train").rows(places(48))


def test_a_shorter_file_is_told_with_the_shard(made: tuple[Path, Manifest]) -> None:
    folder, manifest = made
    path = folder / NAMES[0]
    path.write_bytes(path.read_bytes()[:-100])
    reader = Reader(folder, manifest, "train")
    reader.rows(places(40))
    with pytest.raises(DatasetError, match=f"{path}: breaks off"):
        reader.rows(places(48))


def test_an_example_is_found_by_its_key(made: tuple[Path, Manifest]) -> None:
    folder, _ = made
    for name in NAMES:
        for row in read_examples(folder / name):
            found = read(folder, row.key)
            assert (found.key, found.label, found.ref_db) == (row.key, row.label, row.ref_db)
            np.testing.assert_array_equal(found.mel, row.mel)
    for wrong in ("", "zzz", f"{'0' * 16}/{0:012d}/shift+5"):
        with pytest.raises(DatasetError, match="no example has the key"):
            read(folder, wrong)


def test_every_example_of_a_job_is_found_by_its_key(dataset: Path) -> None:
    manifest = load_manifest(dataset)
    for shard in manifest.shards:
        assert read(dataset, shard.first).key == shard.first
        assert read(dataset, shard.last).key == shard.last
        assert isinstance(offsets.computed(shard, manifest.spec, labels=len(manifest.labels)), offsets.Period)


def test_encoding_is_not_changed_by_reading() -> None:
    row = example(3, variant="shift+7")
    fields = cut(encode_example(row), TINY_SPEC.mel_shape)
    assert (fields.key, fields.label, fields.ref_db) == (row.key.encode(), 0, 3.0)
