"""The examples of a run: damaged shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from training_tools import train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import DatasetError, RunError
from tfpipe.evaluation.evaluate import evaluate
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


@pytest.mark.slow
def test_damaged_examples_can_be_left_out(
    small: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 1, "on_corrupt": "skip", "batch_size": 10}  # the last batches have 9 and 2 examples
    run = train(train_config(damaged, tmp_path / "run", **settings))
    assert len(run.history) == 1
    assert "1 of its 60 examples are left out" in capsys.readouterr().err
    assert json.loads((run.path / "config.json").read_text())["left_out"]
    with pytest.raises(RunError, match="seed: 1 there, 2 now"):
        train(train_config(damaged, tmp_path / "run", **settings, seed=2), quiet=True)
    measured = evaluate(small, run.path, split="validation", which="latest", draws=0, quiet=True)
    assert measured["mse"] == pytest.approx(run.history[0]["val_mse"], rel=1e-4)
