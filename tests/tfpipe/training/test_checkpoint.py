"""Checkpoints: which are kept, how they are named, damage, and variables by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from training_tools import arrays, same

from tfpipe.errors import RunError, UsageError
from tfpipe.training import checkpoint
from tfpipe.training.run_folder import Run


def test_every_second_epoch_is_kept_besides_latest_and_best(trained: Run) -> None:
    kept, latest = "step-00000010", "step-00000015"
    assert {kept, latest} <= set(trained.checkpoints) <= {kept, latest, f"step-{trained.best['step']:08d}"}
    assert not same(arrays(trained.path, kept), arrays(trained.path, latest))


def test_only_latest_best_and_kept_checkpoints_stay(tmp_path: Path) -> None:
    for step, options in ((1, {"best": True}), (2, {}), (3, {"keep": True}), (4, {}), (5, {})):
        checkpoint.save(tmp_path, {"x": np.array(step)}, {"epoch": step}, step=step, **options)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-0000000{step}" for step in (1, 3, 5)]
    assert [checkpoint.pointed(tmp_path, which) for which in ("best", "latest")] == ["step-00000001", "step-00000005"]
    saved = checkpoint.load(tmp_path, "step-00000003")
    assert saved is not None
    assert saved.arrays["x"] == 3
    assert saved.state == {"epoch": 3}


def test_no_checkpoint_yet_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "checkpoints") is None


def test_checkpoint_that_is_gone_or_unknown_is_named_with_the_others(trained: Run) -> None:
    folder = trained.path / "checkpoints"
    with pytest.raises(RunError, match=r"step-00000005: the checkpoint is gone \(there: step-"):
        checkpoint.load(folder, "step-00000005")
    with pytest.raises(UsageError, match="use best, latest, or a name such as step-00000120"):
        checkpoint.load(folder, "../best")


def test_damaged_checkpoint_is_refused(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.path / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "step-00000015" / "state.npz"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(RunError, match=r"step-00000015: the checkpoint is damaged"):
        checkpoint.load(tmp_path / "checkpoints")


def test_variables_are_assigned_although_keras_numbers_the_layers_of_a_second_model_differently() -> None:
    first, later = (
        [keras.Variable(np.full(2, value, np.float32), name=f"{layer}_kernel_momentum")]
        for value, layer in ((1.0, "conv2d"), (0.0, "conv2d_10"))
    )
    stored = {name: np.asarray(value) for name, value in checkpoint.named(first, "optimizer").items()}
    checkpoint.assign(later, stored, prefix="optimizer", where="")
    assert np.array_equal(later[0], first[0])


def test_arrays_of_another_model_are_refused() -> None:
    variables = [keras.Variable(np.zeros(2, np.float32), name="dense_kernel")]
    for stored in ({"encoder/000/conv2d_kernel": np.zeros(2)}, {}):
        with pytest.raises(RunError, match="run: the checkpoint's encoder is another model's"):
            checkpoint.assign(variables, stored, prefix="encoder", where="run")
    with pytest.raises(RunError, match=r"is \(3,\), the model needs \(2,\)"):
        checkpoint.assign(variables, {"encoder/000/dense_kernel": np.zeros(3)}, prefix="encoder", where="run")
