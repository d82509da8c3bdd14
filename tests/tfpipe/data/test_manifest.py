"""The dataset folder's files: what is written is read again, and a wrong manifest says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_tools import TINY_SPEC, example, write_dataset

from tfpipe.data.manifest import Manifest, Skipped, Track, load_manifest, load_skipped, load_tracks, read_examples
from tfpipe.errors import DatasetError

TRACK = Track(
    path="Piano/ü.wav", hash="0" * 64, label="Piano", split="train", seconds=0.2, windows=2, silent=0, variants=1
)
SKIPPED = Skipped(path="b.wav", code="too_short", message="b.wav: too short")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of two and one examples."""
    shards = {"test-00000-of-00001.tfrecord": [example(7)], "train-00000-of-00001.tfrecord": [example(0), example(1)]}
    write_dataset(tmp_path / "data", shards, tracks=[TRACK], skipped=[SKIPPED])
    return tmp_path / "data"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_read_again(folder: Path, kind: type) -> None:
    manifest = load_manifest(kind(folder))
    assert manifest.spec == TINY_SPEC
    assert (manifest.examples("train"), manifest.examples("test"), manifest.examples("validation")) == (2, 1, 0)
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert load_tracks(kind(folder)) == [TRACK]
    assert load_skipped(kind(folder)) == [SKIPPED]
    assert [(shard.split, row.ref_db) for shard, row in read_examples(kind(folder), manifest)] == [
        ("test", 7.0),
        ("train", 0.0),
        ("train", 1.0),
    ]


def test_the_fingerprint_leaves_out_what_training_does_not_see(folder: Path) -> None:
    values = load_manifest(folder).to_dict()
    other = {**values, "config": {"inputs": ["/elsewhere"]}, "versions": {"numpy": "9"}}
    assert Manifest.from_dict(other).fingerprint == values["fingerprint"]
    with pytest.raises(DatasetError, match="fingerprint does not fit"):
        Manifest.from_dict({**values, "labels": ["Piano", "Organ"]})


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("name", ""),
        *((field, text) for field in ("name", "sha256") for text in ("../../elsewhere", "/etc/passwd", "a/b")),
    ],
)
def test_names_that_would_leave_the_folder_are_refused(folder: Path, field: str, text: str) -> None:
    values = json.loads((folder / "dataset.json").read_text())
    values["shards"][0][field] = text
    (folder / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"dataset\.json: shard .*a job never writes such names"):
        load_manifest(folder)


def test_a_manifest_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "dataset.json"
    values = json.loads(path.read_text())
    nameless = {**values, "shards": [{"examples": 1}]}
    for wrong, words in (({**values, "format_version": 2}, "dataset format 1, not 2"), (nameless, "field is missing")):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DatasetError, match=rf"dataset\.json: .*{words}"):
            load_manifest(folder)
    path.unlink()
    with pytest.raises(DatasetError, match="no complete dataset here"):
        load_manifest(folder)
    with pytest.raises(DatasetError, match="no such dataset folder"):
        load_manifest(tmp_path / "none")


def test_a_damaged_list_of_tracks_and_a_missing_shard_are_named(folder: Path) -> None:
    (folder / "tracks.jsonl").write_text("{")
    with pytest.raises(DatasetError, match=r"tracks\.jsonl: cannot be read"):
        load_tracks(folder)
    (folder / "test-00000-of-00001.tfrecord").unlink()
    with pytest.raises(DatasetError, match=r"test-00000-of-00001\.tfrecord: missing shard; run `tfpipe verify"):
        list(read_examples(folder, load_manifest(folder)))
