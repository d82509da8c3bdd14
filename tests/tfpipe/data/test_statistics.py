"""Counts and levels of a dataset folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_tools import example, write_dataset

from tfpipe.data.manifest import Skipped, Track
from tfpipe.data.records import Example
from tfpipe.data.statistics import inspect, levels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks, three training examples of two labels, one test example, three skipped files."""
    folder = tmp_path_factory.mktemp("statistics") / "data"
    tracks = [
        Track(path="a", hash="a" * 64, label="Piano", split="train", seconds=1.5, windows=2, silent=1, variants=1),
        Track(
            path="b",
            hash="b" * 64,
            label="Voice",
            split="test",
            seconds=1.0,
            windows=1,
            silent=0,
            variants=1,
            unused_s=0.1,
        ),
    ]
    train = [example(0), example(255), example(256, label=1, variant="shift+7")]
    skipped = [
        Skipped(path=name, code=code, message="") for name, code in (("x", "empty"), ("y", "too_short"), ("z", "empty"))
    ]
    shards = {"test-00000-of-00001.tfrecord": [example(7, label=1)], "train-00000-of-00001.tfrecord": train}
    write_dataset(folder, shards, tracks=tracks, skipped=skipped)
    return folder


@pytest.mark.parametrize("kind", [str, Path])
def test_inspect_counts_what_is_there(folder: Path, kind: type) -> None:
    found = inspect(kind(folder))
    assert (found["examples"], found["tracks"], found["windows"], found["silent_windows"]) == (4, 2, 3, 1)
    assert (found["seconds"], found["unused_seconds"]) == (2.5, 0.1)
    assert found["labels"] == {"Piano": {"tracks": 1, "windows": 2}, "Voice": {"tracks": 1, "windows": 1}}
    assert found["splits"]["train"] == {"examples": 3, "tracks": 1, "shards": 1}
    assert found["splits"]["validation"] == {"examples": 0, "tracks": 0, "shards": 0}
    assert found["variants"] == {"original": 3, "shift+7": 1}
    assert found["skipped"] == {"total": 3, "by_reason": {"empty": 2, "too_short": 1}}
    assert found["bytes"] == sum(path.stat().st_size for path in folder.glob("*.tfrecord"))


def test_levels_are_measured_by_split_and_label(folder: Path) -> None:
    seen: list[Example] = []
    found = levels(folder, on_example=seen.append)
    assert len(seen) == 4
    assert {split: set(labels) for split, labels in found.items()} == {
        "train": {"Piano", "Voice"},
        "validation": set(),
        "test": {"Voice"},
    }
    piano = found["train"]["Piano"]
    assert piano["examples"] == 2
    assert piano["ref_db"] == {"mean": 127.5, "min": 0.0, "max": 255.0}
    assert piano["mel_mean"] == 0.5  # one window of 0, one of 255
    assert piano["floor_share"] == 0.5
    assert 30 < piano["centroid_hz"] < 8000
