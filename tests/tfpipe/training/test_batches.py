"""The examples of a run: damaged shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from training_tools import train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import DatasetError, RunError
from tfpipe.training.loop import train


@pytest.fixture
def damaged(small: Path, tmp_path: Path) -> Path:
    """The dataset with one wrong byte near the end of the training shard."""
    data = Path(shutil.copytree(small, tmp_path / "data"))
    (shard,) = load_manifest(data).split_shards("train")
    content = bytearray((data / shard.name).read_bytes())
    content[-100] ^= 1
    (data / shard.name).write_bytes(content)
    return data


def test_damage_stops_training_with_its_place(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"00001.tfrecord: damaged record at byte .*--on-corrupt skip"):
        train(train_config(damaged, tmp_path / "run", epochs=1), quiet=True)


def test_damaged_examples_can_be_left_out(damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(train_config(damaged, tmp_path / "run", epochs=1, on_corrupt="skip"))
    assert len(run.history) == 1
    assert "1 of its 60 examples are left out" in capsys.readouterr().err
    assert json.loads((run.path / "config.json").read_text())["left_out"]
    with pytest.raises(RunError, match="seed: 1 there, 2 now"):
        train(train_config(damaged, tmp_path / "run", epochs=1, on_corrupt="skip", seed=2), quiet=True)
