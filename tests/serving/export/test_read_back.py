"""The comparison that an export makes before it publishes a version."""

import shutil

import numpy as np
import pytest

from serving.export import read_back, saved_model
from serving.export.signatures import build_signatures
from tfpipe.errors import ServingError


def test_the_graph_uses_tensorflows_own_ops_alone(exported):
    ops, unknown = read_back.ops_of(str(exported.path))
    assert {"Conv2D", "RFFT", "IRFFT", "MatMul"} <= ops
    assert not unknown
    assert not [op for op in ops if "PyFunc" in op]


def test_read_back_check_sees_other_weights(exported, model, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(exported.path, damaged)
    data = next((damaged / "variables").glob("*.data*"))
    data.write_bytes(bytes(len(data.read_bytes())))
    functions = build_signatures(model)
    examples = {"decode": {"z": np.ones((1, model.latent), np.float32)}}
    with pytest.raises(ServingError, match="nothing was exported"):
        saved_model._check_in_child(functions, examples, damaged)
