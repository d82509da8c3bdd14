"""Networks that somebody built with Keras alone, exported with the signatures of every other model."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from dataset_tools import TINY_SPEC, example, write_dataset

import tfpipe as tp
from serving.export.own_networks import export_networks
from serving.protocol.names import DESCRIPTION_FILE, MODEL_CARD_FILE, SOURCES_FILE
from tfpipe.errors import DatasetError, ServingError, UsageError
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec(n_mels=32, window_s=1.0)
LATENT = 3


def encoder(*, spec=SPEC, outputs=2, latent=LATENT, dtype="float32"):
    mel = keras.Input((*spec.mel_shape, 1))
    flat = keras.layers.Flatten(dtype=dtype)(mel)
    return keras.Model(mel, [keras.layers.Dense(latent, dtype=dtype)(flat) for _ in range(outputs)])


def decoder(*, spec=SPEC, latent=LATENT):
    size = int(np.prod(spec.mel_shape))
    return keras.Sequential(
        [keras.Input((latent,)), keras.layers.Dense(size, "sigmoid"), keras.layers.Reshape((*spec.mel_shape, 1))]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of windows of 32 bands and one second."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, {"train-00000-of-00001.tfrecord": [example(n, spec=SPEC) for n in range(3)]}, spec=SPEC)
    return folder


@pytest.fixture(scope="module")
def own(data, tmp_path_factory):
    """The networks, and the folder that they are exported to."""
    networks, folder = (encoder(), decoder()), tmp_path_factory.mktemp("models") / "own"
    export_networks(*networks, folder, data=data, model_name="mine")
    return networks, folder


def test_the_model_answers_what_the_networks_give(own):
    (encode, decode), folder = own
    mel = np.random.default_rng(0).uniform(size=(2, *SPEC.mel_shape)).astype(np.float32)
    with tp.load(folder) as vae:
        assert vae.spec() == SPEC
        found = vae.encode(mel)
        z_mean, z_log_var = encode(mel[..., None])
        np.testing.assert_allclose(found.z_mean, z_mean, atol=1e-5)
        np.testing.assert_allclose(found.z_log_var, z_log_var, atol=1e-5)
        np.testing.assert_allclose(vae.decode(found.z_mean), decode(z_mean)[..., 0], atol=1e-5)
        drawn = vae.generate([1, 2])
        assert drawn.z.shape == (2, LATENT)
        assert np.abs(drawn.z[0] - drawn.z[1]).max() > 0.01
        assert vae.decode_audio(drawn.z, [9.0, 9.0]).shape == (2, SPEC.samples)


def test_the_version_says_what_it_is(own, data):
    _, folder = own
    described = json.loads((folder / "1" / DESCRIPTION_FILE).read_text())
    assert described["latent_shape"] == [1, LATENT]
    assert described["metadata"]["dataset"] == tp.inspect(data)["fingerprint"]
    assert described["metadata"]["preset"].startswith("own-")
    card = (folder / "1" / MODEL_CARD_FILE).read_text()
    assert card.startswith("# mine\n\nAn encoder and a decoder of log-mel spectrograms, built with Keras")
    assert "convolutional" not in card
    assert json.loads((folder / "1" / SOURCES_FILE).read_text())["dataset"] == described["metadata"]["dataset"]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (lambda: encoder(outputs=1), decoder, r"encoder: gives \[1, 3\] for one window; give it two outputs"),
        (lambda: encoder(outputs=3), decoder, r"encoder: gives \[1, 3\] and \[1, 3\] and \[1, 3\]"),
        (lambda: encoder(spec=TINY_SPEC), decoder, r"encoder: does not take \[1, 32, 44, 1\] "),
        (encoder, lambda: decoder(latent=4), r"decoder: does not take \[1, 3\] "),
        (
            encoder,
            lambda: decoder(spec=TINY_SPEC),
            r"decoder: gives \[1, 4, 5, 1\] for one latent; let it give \[1, 32",
        ),
        (lambda: print, decoder, r"encoder=.* is no Keras model; give a keras.Model"),
    ],
    ids=["a plain encoder", "three outputs", "another spec", "another latent", "another window", "no network"],
)
def test_networks_that_do_not_fit_are_refused(data, tmp_path, first, second, says):
    with pytest.raises(UsageError, match=says):
        export_networks(first(), second(), tmp_path / "models", data=data)
    assert not (tmp_path / "models").exists()


def test_half_precision_and_a_missing_dataset_are_refused(data, tmp_path):
    with pytest.raises(ServingError, match="computes in bfloat16"):
        export_networks(encoder(dtype="mixed_bfloat16"), decoder(), tmp_path / "models", data=data)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        export_networks(encoder(), decoder(), tmp_path / "models", data=tmp_path)
