"""`croissant.json`, the description of a dataset for catalogues."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from tfpipe.data.croissant import CROISSANT
from tfpipe.data.manifest import SPLITS, TRACKS, load_manifest, load_tracks

# What the format asks of a field's type.
TYPES = {"sc:Text": str, "sc:Integer": int, "sc:Float": float}


@pytest.fixture
def described(dataset: Path) -> dict:
    return json.loads((dataset / CROISSANT).read_text())


def test_a_job_describes_its_dataset(dataset: Path, described: dict) -> None:
    manifest = load_manifest(dataset)
    assert described["@type"] == "sc:Dataset"
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert manifest.fingerprint in described["name"]
    for split in SPLITS:
        assert f"{split} {manifest.examples(split)}" in described["description"]
    assert set(manifest.labels) <= set(described["keywords"])


def test_its_files_are_those_of_the_folder(dataset: Path, described: dict) -> None:
    files = {one["@id"]: one for one in described["distribution"]}
    names = {name for one in files.values() for name in one if not name.startswith("@")}
    assert names <= set(described["@context"]) | {
        "name",
        "description",
        "contentUrl",
        "contentSize",
        "encodingFormat",
        "sha256",
    }
    for name in (TRACKS, "skipped.jsonl"):
        content = (dataset / files[name]["contentUrl"]).read_bytes()
        assert files[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert files[name]["contentSize"] == f"{len(content)} B"
    shards = {path.name for path in dataset.glob("*.tfrecord")}
    assert shards == {
        path.name for split in SPLITS if split in files for path in dataset.glob(files[split]["includes"])
    }


def test_the_records_of_tracks_have_the_fields(dataset: Path, described: dict) -> None:
    (records,) = described["recordSet"]
    fields = {field["source"]["extract"]["column"]: TYPES[field["dataType"]] for field in records["field"]}
    rows = [json.loads(line) for line in (dataset / TRACKS).read_text().splitlines()]
    assert len(rows) == len(load_tracks(dataset))
    for row in rows:
        assert set(row) == set(fields)
        assert all(isinstance(value, (fields[name], int)) for name, value in row.items())
    assert {field["source"]["fileObject"]["@id"] for field in records["field"]} == {TRACKS}
    prefixes = {word.partition(":")[0] for word in re.findall(r'"(?:sc|cr|dct):\w+"', json.dumps(described))}
    assert {prefix.strip('"') for prefix in prefixes} <= set(described["@context"])
