"""An exported model in this process: what it answers is what a server answers, and what it refuses."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest

import tfpipe as tp
from serving.client.connection import RequestRefusedError
from serving.client.local_model import LocalModel
from serving.protocol.names import DESCRIPTION_FILE
from tfpipe.errors import ServingError


@pytest.fixture(scope="module")
def vae(exported):
    with tp.load(exported.path.parent) as opened:
        yield opened


def test_it_answers_what_the_server_answers(vae, client, recordings, spec):
    assert vae.describe() == client.describe()
    assert vae.spec() == spec
    np.testing.assert_allclose(vae.generate([1, 2]).mel, client.generate([1, 2]).mel, atol=1e-6)
    (here, there) = (next(iter(each.encode_file(recordings[0]))) for each in (vae, client))
    np.testing.assert_allclose(here.encoded.z_mean, there.encoded.z_mean, atol=1e-5)


def test_a_large_batch_gives_what_its_rows_give_alone(vae):
    z = np.random.default_rng(0).standard_normal((70, 8)).astype(np.float32)
    whole = vae.decode(z)
    np.testing.assert_allclose(whole[[0, 40, 69]], [vae.decode(z[[row]])[0] for row in (0, 40, 69)], atol=1e-5)


def test_the_newest_version_or_the_one_that_is_named_is_loaded(exported, tmp_path):
    for version in ("2", "10"):
        shutil.copytree(exported.path, tmp_path / version)
    (tmp_path / "11").mkdir()  # a version that is still being copied
    assert tp.load(tmp_path).target == str(tmp_path / "10")
    assert tp.load(str(tmp_path / "2")).target == str(tmp_path / "2")


def test_the_caller_can_tell_of_the_loading(exported):
    events = []

    @contextlib.contextmanager
    def loading():
        events.append("begins")
        yield
        events.append("ends")

    with LocalModel(exported.path, loading=loading) as model:
        model.describe()
        assert events == []
        model.decode(np.zeros((1, 8)))
        model.decode(np.zeros((1, 8)))
    assert events == ["begins", "ends"]


def test_it_is_described_before_it_is_loaded(exported, tmp_path, vae):
    copy = shutil.copytree(exported.path, tmp_path / "1")
    (copy / "saved_model.pb").write_bytes(b"no graph")
    assert LocalModel(copy).describe() == vae.describe()
    shutil.copy(exported.path / "saved_model.pb", copy)
    (copy / DESCRIPTION_FILE).write_text("{")
    assert LocalModel(copy).describe() == vae.describe()


def test_a_folder_without_a_model_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ServingError, match=f"{tmp_path}: no exported model here .* `tfpipe export --run RUN"):
        tp.load(tmp_path)


def test_a_damaged_model_is_refused(exported, tmp_path):
    damaged = shutil.copytree(exported.path, tmp_path / "1")
    (damaged / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ServingError, match=r"1: the model cannot be loaded .*export it again"):
        tp.load(tmp_path)


@pytest.mark.parametrize("z", [np.zeros((1, 9)), np.zeros(8)], ids=["a latent of another size", "no batch"])
def test_a_wrong_shape_is_refused(vae, z):
    with pytest.raises(RequestRefusedError, match=r"decode|latents are \[n, 8\]"):
        vae.decode(z)


def test_a_signature_that_the_model_lacks_is_named(toy):
    with pytest.raises(ServingError, match="has no signature 'spec'; it has "):
        tp.load(toy).describe()
