"""One step: loss scaling, the moving average, XLA, and what a step costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.bench.gpu import training_flops
from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Part
from tfpipe.errors import UsageError
from tfpipe.model import networks, precision
from tfpipe.spec import FeatureSpec
from tfpipe.training.config import TrainConfig
from tfpipe.training.step import Stepper


def stepper(data: Path, **settings: object) -> Stepper:
    config = TrainConfig(data=str(data), run="unused", preset="tiny", batch_size=10, seed=3, **settings)
    spec = load_manifest(data).spec
    made = Stepper(config, spec, strategy=tf.distribute.get_strategy(), part=Part(), total_steps=50)
    made.start(np.random.default_rng(0).random((20, *spec.mel_shape), np.float32))
    return made


@pytest.fixture
def mel(small: Path) -> tf.Tensor:
    return next(iter(make_dataset(small, split="train", batch_size=10, seed=0)))["mel"]


def weights(models: networks.Models) -> list[np.ndarray]:
    return [np.array(weight) for part in models for weight in part.weights]


def train(made: Stepper, mel: tf.Tensor, step: int) -> np.ndarray:
    return made.read(made.train(mel, count=10, stop=False, step=step))


def test_a_gradient_that_overflows_float16_is_skipped_and_no_error(small: Path, mel: tf.Tensor) -> None:
    made = stepper(small, precision="mixed_float16")
    made.optimizer.dynamic_scale.assign(2.0**60)
    before = weights(made.models)
    means = train(made, mel, 0)
    assert np.isfinite(means).all()
    assert all(map(np.array_equal, before, weights(made.models)))
    assert float(made.optimizer.dynamic_scale) == 2.0**59
    made.optimizer.dynamic_scale.assign(2.0**10)
    train(made, mel, 1)
    assert not all(map(np.array_equal, before, weights(made.models)))
    assert all(np.isfinite(weight).all() for weight in weights(made.models))


def test_the_average_follows_the_weights_and_is_what_is_judged(small: Path, mel: tf.Tensor) -> None:
    made = stepper(small, average=0.9)
    expected = weights(made.models)
    for step in range(12):
        train(made, mel, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [old + (1 - decay) * (new - old) for old, new in zip(expected, weights(made.models), strict=True)]
    for average, by_hand, now in zip(weights(made.judged), expected, weights(made.models), strict=True):
        np.testing.assert_allclose(average, by_hand, rtol=1e-4, atol=1e-6)
        if now.any():
            assert now.shape == by_hand.shape
    assert not all(map(np.array_equal, weights(made.judged), weights(made.models)))
    judged = made.read(made.evaluate(mel, count=len(mel))[0])
    for part in ("encoder", "decoder"):
        getattr(made.models, part).set_weights(getattr(made.judged, part).get_weights())
    plain = stepper(small)
    for part in ("encoder", "decoder"):
        getattr(plain.models, part).set_weights(getattr(made.judged, part).get_weights())
    np.testing.assert_allclose(judged, plain.read(plain.evaluate(mel, count=len(mel))[0]), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_xla_computes_the_same(small: Path, mel: tf.Tensor, policy: str) -> None:
    plain, compiled = (stepper(small, precision=policy, jit_compile=jit) for jit in ("off", "on"))
    assert (plain.jit, compiled.jit) == (False, True)
    # In half precision the order of operations shows.
    rtol = 1e-2 if policy == "float32" else 5e-2
    for step in range(3):
        np.testing.assert_allclose(train(compiled, mel, step)[0], train(plain, mel, step)[0], rtol=rtol)


def test_xla_on_several_devices_is_refused() -> None:
    assert not precision.compiled("auto", replicas=2)
    with pytest.raises(UsageError, match="--jit-compile on works on one device, and here are 2"):
        precision.compiled("on", replicas=2)


def test_flops_are_those_of_the_design() -> None:
    """The notebook's model is known to take about 13 GFLOP an example; a convolution is counted by hand."""
    assert training_flops(networks.build("notebook", FeatureSpec(), latent=16)) == pytest.approx(13e9, rel=0.02)
    tiny = networks.build("tiny", FeatureSpec(n_mels=16, window_s=15 * 512 / 22_050), latent=4)
    # Kernel, channels before and after, places. The first and last layers see 16 frames, in between these halve to 2.
    encoder = [(1, 16, 8, 16), (5, 8, 12, 8), (5, 12, 16, 4), (5, 16, 16, 2), (1, 16, 4, 2), (1, 8, 32, 1)]
    decoder = [(1, 4, 32, 1), (1, 32, 32, 1), (4, 16, 16, 2), (4, 16, 16, 4), (4, 16, 12, 8), (1, 12, 16, 16)]
    heads_and_linear = [(1, 32, 4, 2), (1, 256, 4, 1), (1, 4, 256, 1)]
    sizes = [*encoder, *decoder, *heads_and_linear]
    forward = sum(2 * kernel * before * after * places for kernel, before, after, places in sizes)
    assert training_flops(tiny) == 3 * forward
