"""What an older version stored stays readable.

`resources/before_folders.tar.xz` was made by the version before the modules moved into folders, from six synthesised
tracks of 2 s: a dataset (`--n-mels 16 --window-s 0.35 --semitones 0,7`), a run (`--preset tiny --latent 4 --epochs 2`),
the model that was exported from it, its latents file, and what `evaluate` and `inspect` said of them.
"""

import json
import shutil
import tarfile

import numpy as np
import pytest

import tfpipe as tp


@pytest.fixture(scope="module")
def stored(tmp_path_factory, repo):
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(repo / "tests" / "resources" / "before_folders.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_dataset_is_whole_and_says_the_same(stored):
    assert tp.verify(stored / "data") == []
    before, now = json.loads((stored / "inspect.json").read_text()), tp.inspect(stored / "data")
    assert {name: before[name] for name in now} == now


def test_a_run_gives_the_same_figures(stored):
    before = json.loads((stored / "evaluate.json").read_text())
    now = tp.evaluate(stored / "data", stored / "run", draws=0, quiet=True)
    assert now["checkpoint"] == before["checkpoint"]
    assert now["mse"] == pytest.approx(before["mse"], rel=1e-4)
    assert now["kl"] == pytest.approx(before["kl"], rel=1e-4)


def test_a_run_is_not_continued_with_the_network_that_its_preset_has_today(stored):
    with pytest.raises(tp.errors.RunError, match=r"network: timewise there, sequence now\)"):
        tp.train(stored / "data", stored / "run", preset="tiny", latent=4, epochs=2, precision="float32", quiet=True)


def test_a_finished_run_of_a_renamed_preset_is_finished(stored, tmp_path):
    run = shutil.copytree(stored / "run", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "preset": "standard"}))
    settings = {"latent": 4, "epochs": 2, "precision": "float32", "batch_size": 16, "learning_rate": 5e-4}
    for name in ("standard", "compact"):
        again = tp.train(stored / "data", run, preset=name, patience=0, roll_s=0.0, quiet=True, **settings)
        assert len(again.history) == 2


def test_an_exported_model_serves_and_decodes_its_old_latents(stored):
    with (
        tp.serve(stored / "models" / "vae", port=0, rest_api_port=-1) as server,
        tp.Client(server.address) as vae,
        np.load(stored / "latents.npz") as latents,
    ):
        assert vae.describe()["fingerprint"] == str(latents["fingerprint"])
        mel = vae.decode(latents["z_mean"])
        assert mel.shape == (36, *vae.spec().mel_shape)
        assert np.isfinite(mel).all()
        assert vae.generate([1]).z.shape == (1, 4)
