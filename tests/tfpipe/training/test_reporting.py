"""What a run reports: a loss that is not finite, slow input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from training_tools import arrays, train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.data.records import decode_example, read_records
from tfpipe.errors import RunError
from tfpipe.training.loop import train


def test_loss_that_is_not_finite_is_reported_with_step_batch_and_checkpoint(small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"preset": "notebook", "learning_rate": 1.0, "schedule": "constant", "epochs": 50, "batch_size": 10}
    with pytest.raises(RunError) as raised:
        train(train_config(small, run, checkpoint_every_s=1e-9, **settings), quiet=True)
    text = str(raised.value)
    found = re.search(
        r"not finite at epoch (\d+), step (\d+) \(mse .*\), in the batch of (\S+), (\S+), (\S+) and 7 more", text
    )
    assert found, text
    assert "with a smaller --learning-rate" in text
    record = json.loads((run / "nonfinite.json").read_text())
    assert (record["epoch"], record["step"]) == (int(found[1]), int(found[2]))
    assert record["keys"][:3] == list(found.groups()[2:])
    manifest = load_manifest(small)
    (shard,) = manifest.split_shards("train")
    known = {decode_example(data, manifest.spec.mel_shape).key for data in read_records(small / shard.name)}
    for keys in (record["keys"], record["keys_before"]):
        assert len(set(keys)) == 10
        assert set(keys) <= known
    checkpoint = re.search(r"last finite checkpoint is (step-\d+)", text)
    assert checkpoint
    assert all(np.isfinite(array).all() for array in arrays(run, checkpoint[1]).values())
    assert not (run / "DONE").exists()
