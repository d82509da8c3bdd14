"""Exported models and running servers that all serving tests share; nothing is mocked."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from once import make_once
from serving_tools import Caller, export_examples_model, export_toy, start_server

from serving.client.client import Client
from serving.server.grpc.native_server import is_built
from tfpipe.spec import FeatureSpec

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus_small"


@pytest.fixture(scope="session")
def spec():
    return FeatureSpec()


@pytest.fixture(scope="session")
def model(spec):
    """The tiny preset with weights whose outputs span the range, as a trained model's do."""
    from tfpipe.model.networks import build
    from tfpipe.training.trained_model import TrainedModel

    models = build("tiny", spec, latent=8)
    _randomise(*models)
    models.decoder.get_layer("linear").bias.assign(np.full(np.prod(spec.mel_shape), 0.5))
    return TrainedModel(
        spec=spec,
        labels=("Human", "Piano"),
        latent=8,
        latent_shape=(1, 8),
        encoder=models.encoder,
        decoder=models.decoder,
        metadata={"preset": "tiny", "step": 7},
    )


def _randomise(*networks):
    """Gives all layers weights with which a unit of input stays about a unit."""
    rng = np.random.default_rng(1)
    for part in networks:
        for weight in part.weights:
            if len(weight.shape) > 1:
                fan_in = np.prod(weight.shape[:-1])
                weight.assign(rng.normal(scale=1.0 / np.sqrt(fan_in), size=weight.shape))


@pytest.fixture(scope="session")
def prior_model():
    """A model with a prior, on windows of one second with 32 bands; its latent has 6 steps of 16."""
    from tfpipe.model import prior
    from tfpipe.model.latent_shape import LatentShape
    from tfpipe.model.networks import build
    from tfpipe.model.presets import preset
    from tfpipe.training.trained_model import TrainedModel

    spec, shape = FeatureSpec(window_s=1.0, n_mels=32), LatentShape(6, 16)
    size = preset("tiny").prior
    assert size is not None
    models, network = build("tiny", spec), prior.build(size, shape, labels=2)
    _randomise(*models, network)
    models.decoder.get_layer("linear").bias.assign(np.full(8 * spec.n_mels, 0.5))
    return TrainedModel(
        spec=spec,
        labels=("Human", "Piano"),
        latent=shape.size,
        latent_shape=(shape.steps, shape.channels),
        encoder=models.encoder,
        decoder=models.decoder,
        prior=prior.Prior(network=network, shape=shape, labels=2, original=True),
        metadata={"preset": "tiny", "step": 7},
    )


@pytest.fixture(scope="session")
def prior_exported(request, tmp_path_factory):
    """The folder of the version that `prior_model` is exported as."""

    def export(folder):
        from serving.export.saved_model import export_model

        export_model(request.getfixturevalue("prior_model"), folder / "models")

    return make_once(tmp_path_factory, "prior_exported", export) / "models" / "1"


@pytest.fixture(scope="session")
def exported(request, tmp_path_factory):
    """The result of exporting `model`; the export takes 15 s of processor time."""

    def export(folder):
        from serving.export.saved_model import export_model

        done = export_model(request.getfixturevalue("model"), folder / "models")
        (folder / "exported.pickle").write_bytes(pickle.dumps(done))

    return pickle.loads((make_once(tmp_path_factory, "exported", export) / "exported.pickle").read_bytes())


@pytest.fixture(scope="session")
def loaded(exported):
    """The exported model, loaded in this process by TensorFlow alone."""
    import tensorflow as tf

    return tf.saved_model.load(str(exported.path))


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The folder of a small model (`serving_tools.export_toy`) with version 1."""
    return make_once(tmp_path_factory, "toy", lambda folder: export_toy(folder, 1))


@pytest.fixture(scope="session")
def examples_model(tmp_path_factory):
    """The folder of a model that parses `tf.Example` messages (`serving_tools.export_examples_model`)."""
    return make_once(tmp_path_factory, "examples_model", export_examples_model)


@pytest.fixture(scope="session")
def toy_versions(toy, tmp_path_factory):
    """Versions 1 to 3 of the toy, whose signature `version` tells them apart."""

    def export(folder):
        for version in (2, 3):
            export_toy(folder, version)

    more = make_once(tmp_path_factory, "toy_versions", export)
    return {1: toy / "1", **{version: more / str(version) for version in (2, 3)}}


@pytest.fixture(scope="session")
def shared_server():
    """Returns a function that starts a server of a folder once for each front end; tests must not change it.

    It runs no warm-up requests, which take seconds; `test_loaded_model.py` tests them.
    """
    running = {}

    def get(folder, front_end):
        if (folder, front_end) not in running:
            running[folder, front_end] = start_server(folder, grpc_front_end=front_end, enable_model_warmup=False)
        return running[folder, front_end]

    yield get
    for server in running.values():
        server.stop(grace_s=5)


@pytest.fixture(scope="session")
def server(exported, shared_server):
    """A server of the exported model."""
    return shared_server(exported.path.parent, "native" if is_built() else "python")


@pytest.fixture(scope="session")
def prior_server(prior_exported, shared_server):
    """A server of the exported model with a prior."""
    return shared_server(prior_exported.parent, "native" if is_built() else "python")


@pytest.fixture(scope="session")
def prior_loaded(prior_exported):
    """The exported model with a prior, loaded in this process by TensorFlow alone."""
    import tensorflow as tf

    return tf.saved_model.load(str(prior_exported))


@pytest.fixture
def prior_client(prior_server):
    with Client(f"127.0.0.1:{prior_server.port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def toy_server(toy, front_end, shared_server):
    """A server of the toy on each front end."""
    return shared_server(toy, front_end)


@pytest.fixture(scope="module")
def caller(toy_server):
    """Calls `toy_server`."""
    with Caller(toy_server.port) as opened:
        yield opened


@pytest.fixture(scope="session")
def native_server(toy, shared_server):
    """The native server of the toy, for tests with the mark `serving_tools.native`."""
    return shared_server(toy, "native")


@pytest.fixture(scope="module")
def native_caller(native_server):
    """Calls `native_server`."""
    with Caller(native_server.port) as opened:
        yield opened


@pytest.fixture(scope="module", params=["native", "python"])
def front_end(request):
    """Each gRPC server; without Rust there is one."""
    if request.param == "native" and not is_built():
        pytest.skip("the native front end is not built; install Rust and run scripts/setup")
    return request.param


@pytest.fixture(scope="session")
def target(server):
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def client(target):
    with Client(target) as opened:
        yield opened


@pytest.fixture(scope="session")
def recordings(tmp_path_factory, spec):
    """Two audio files of two windows each: from real recordings where they are, synthesised ones elsewhere."""
    import soundfile

    from tfpipe.audio.wav import write_wav

    folder, count = tmp_path_factory.mktemp("audio"), 2 * spec.samples
    real = [*sorted(CORPUS.glob("Human/*.wav"))[:1], *sorted(CORPUS.glob("Piano/*.wav"))[:1]]
    if len(real) == 2:
        for path in real:
            audio, rate = soundfile.read(path)
            write_wav(folder / path.name, audio[: count * rate // spec.sample_rate], rate)
        return [folder / path.name for path in real]
    time = np.arange(count) / spec.sample_rate
    for name, pitch in (("low", 220.0), ("high", 660.0)):
        tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6)) * np.exp(-(time % 1.0) * 3)
        write_wav(folder / f"{name}.wav", 0.2 * tone, spec.sample_rate)
    return [folder / "low.wav", folder / "high.wav"]
