"""The recordings that a run was trained on, and their licences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfpipe.data.manifest import TRACKS, Manifest, Track, lines
from tfpipe.errors import DatasetError
from tfpipe.files.storage import read_json
from tfpipe.spec import FeatureSpec
from tfpipe.training.sources import find_sources, keep_evaluation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset folder with the tracks Piano/a.wav and Voice/b.wav of the recordings in `in`."""
    for name in ("data", "in/Piano", "in/Voice"):
        (tmp_path / name).mkdir(parents=True)
    fields: dict[str, Any] = {"split": "train", "seconds": 30.0, "windows": 6, "silent": 0, "variants": 1}
    rows = [Track(path=f"{label}/{name}.wav", hash=name * 64, label=label, **fields) for label, name in _TRACKS]
    (tmp_path / "data" / TRACKS).write_bytes(lines(rows))
    return tmp_path / "data"


_TRACKS = (("Voice", "b"), ("Piano", "a"))


def found(data: Path) -> dict[str, Any]:
    base = str(data.parent / "in")
    return find_sources(data, Manifest(spec=FeatureSpec(), labels=("Piano", "Voice"), shards=(), config={"base": base}))


def test_recordings_have_checksums_and_no_licence_that_was_not_given(data: Path) -> None:
    sources = found(data)
    expected = {"path": "Piano/a.wav", "label": "Piano", "split": "train", "seconds": 30.0, "sha256": "a" * 64}
    assert sources["tracks"][0] == expected
    assert [row["path"] for row in sources["tracks"]] == ["Piano/a.wav", "Voice/b.wav"]
    assert sources["licences"] == []


def test_a_list_of_licences_names_recordings_and_folders(data: Path) -> None:
    (data.parent / "in" / "licences.csv").write_text("path,licence\nVoice,CC BY 3.0\n.,own\n")
    assert [row["licence"] for row in found(data)["tracks"]] == ["own", "CC BY 3.0"]
    (data / "licences.csv").write_text("path,licence\nVoice/b.wav,CC0\n")
    assert [row["licence"] for row in found(data)["tracks"]] == ["own", "CC0"]
    (data / "licences.csv").write_text("file,licence\n")
    with pytest.raises(DatasetError, match=r"licences.csv: no column 'path'; the first line must be path,licence"):
        found(data)


def test_licence_texts_are_found_and_readmes_only_without_them(data: Path) -> None:
    recordings = data.parent / "in"
    (recordings / "README.md").write_text("about")
    assert [text["file"] for text in found(data)["licences"]] == ["README.md"]
    (recordings / "LICENCES.md").write_text("x" * 30_000)
    (recordings / "Piano" / "License.txt").write_text("piano")
    (recordings / "Voice" / "COPYING").write_text("piano")
    texts = found(data)["licences"]
    assert [text["file"] for text in texts] == ["LICENCES.md", "License.txt"]
    assert len(texts[0]["text"]) == 20_000


def test_recordings_that_are_gone_leave_the_list_of_tracks(data: Path) -> None:
    (data.parent / "in").rename(data.parent / "elsewhere")
    assert len(found(data)["tracks"]) == 2
    (data / TRACKS).unlink()
    assert found(data)["tracks"] == []


def test_an_evaluation_is_kept_if_it_looked_for_copies(tmp_path: Path) -> None:
    result: dict[str, Any] = {"checkpoint": {"step": 5}, "split": "test", "windows": 9, "mse": 0.1, "kl": 3.0}
    keep_evaluation(tmp_path, {**result, "draws": {"missing": "left out"}})
    assert not (tmp_path / "evaluation.json").exists()
    nearest = {"copies": 0.1, "copies_held_out": 0.0, "draws": 1.0, "held_out": 1.1}
    keep_evaluation(tmp_path, {**result, "draws": {"nearest_training": nearest, "kad": 1.0}})
    assert read_json(tmp_path / "evaluation.json")["draws"] == {"nearest_training": nearest}
