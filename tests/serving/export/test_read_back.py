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


def test_other_weights_are_seen_and_refused(exported, model, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(exported.path, damaged)
    data = next((damaged / "variables").glob("*.data*"))
    data.write_bytes(bytes(len(data.read_bytes())))
    examples = {"decode": {"z": np.ones((1, model.latent), np.float32)}}
    saved_model._write_reference(build_signatures(model), examples, tmp_path / "reference.npz")
    assert read_back.compare(str(exported.path), str(tmp_path / "reference.npz"))[0] <= saved_model.TOLERANCE
    difference, where = read_back.compare(str(damaged), str(tmp_path / "reference.npz"))
    assert where == "decode/mel"
    with pytest.raises(ServingError, match=r"differs from the trained one by .* nothing was exported"):
        saved_model._require_agreement(difference, where, damaged)
