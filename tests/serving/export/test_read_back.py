"""The comparison that an export makes before it publishes a version."""

import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from serving.export import read_back, saved_model
from serving.export.signatures import build_signatures
from tfpipe.errors import ServingError


def test_the_graph_uses_tensorflows_own_ops_alone(exported):
    ops, unknown = read_back.ops_of(str(exported.path))
    assert {"Conv2D", "RFFT", "IRFFT", "MatMul"} <= ops
    assert not unknown
    assert not [op for op in ops if "PyFunc" in op]


def test_other_outputs_and_damaged_weights_are_seen(exported, model, tmp_path):
    reference = tmp_path / "reference.npz"
    z = np.ones((1, model.latent), np.float32)
    saved_model._write_reference(build_signatures(model), {"decode": {"z": z}}, reference)
    assert read_back.compare(str(exported.path), str(reference))[0] <= saved_model.TOLERANCE
    with np.load(reference) as arrays:
        np.savez(tmp_path / "other.npz", **{**arrays, "decode/out/mel": arrays["decode/out/mel"] + 0.01})
    difference, where = read_back.compare(str(exported.path), str(tmp_path / "other.npz"))
    assert where == "decode/mel"
    assert difference == pytest.approx(0.01, abs=1e-3)

    damaged = tmp_path / "damaged"
    shutil.copytree(exported.path, damaged)
    data = next((damaged / "variables").glob("*.data*"))
    data.write_bytes(bytes(len(data.read_bytes())))
    with pytest.raises(tf.errors.OpError, match="checksum"):
        read_back.compare(str(damaged), str(reference))


def test_sounds_may_differ_in_phase_where_they_are_quiet_and_in_nothing_else():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((2, 1000)).astype(np.float32)
    quiet = sound + 0.1 * rng.standard_normal(sound.shape)
    assert read_back._difference(quiet, sound, alias="audio") == pytest.approx(1e-5, rel=0.3)
    for other in (2.0 * sound, -sound, sound[::-1], np.zeros_like(sound), np.where(sound > 2.0, np.nan, sound)):
        assert read_back._difference(other, sound, alias="audio") > saved_model.TOLERANCE
    assert read_back._difference(sound, np.zeros_like(sound), alias="audio") == np.inf
    assert read_back._difference(np.zeros_like(sound), np.zeros_like(sound), alias="audio") == 0.0


@pytest.mark.parametrize(
    ("status", "out", "err", "says"),
    [
        (1, "", "Traceback\nOpError: the checksum differs\n", r"cannot be read back \(OpError: the checksum differs\)"),
        (0, '[0.5, "decode/mel"]\n', "", "differs from the trained one by 0.5 in decode/mel"),
        (0, '[NaN, "decode/mel"]\n', "", "differs from the trained one by nan in decode/mel"),
    ],
)
def test_what_the_check_reports_is_refused_in_one_line(status, out, err, says, tmp_path):
    with pytest.raises(ServingError, match=f"{says}.*; nothing was exported$"):
        saved_model._accepted_difference(subprocess.CompletedProcess([], status, out, err), tmp_path / "1")
