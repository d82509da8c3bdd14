"""One step: loss scaling, the moving average, XLA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Part
from tfpipe.features.log_mel_tf import to_mel
from tfpipe.model import measure, networks
from tfpipe.training.config import TrainConfig
from tfpipe.training.step import Stepper


def stepper(data: Path, **settings: Any) -> Stepper:
    config = TrainConfig(data=str(data), run="unused", preset="tiny", batch_size=10, seed=3, **settings)
    spec = load_manifest(data).spec
    made = Stepper(config, spec, strategy=tf.distribute.get_strategy(), part=Part(), total_steps=50)
    made.start(np.random.default_rng(0).random((20, *spec.mel_shape), np.float32))
    return made


@pytest.fixture
def mel(small: Path) -> tf.Tensor:
    return next(iter(make_dataset(small, split="train", batch_size=10, seed=0)))["mel"]


def weights(models: networks.Models) -> list[NDArray[Any]]:
    return [np.array(weight) for part in models for weight in part.weights]


def train(made: Stepper, mel: tf.Tensor, step: int) -> NDArray[Any]:
    return made.read(made.train(mel, count=10, stop=False, step=step))


@pytest.mark.slow
def test_step_whose_gradient_overflows_float16_is_skipped(small: Path, mel: tf.Tensor) -> None:
    made = stepper(small, precision="mixed_float16")
    train(made, mel, 0)  # until then the layers in float16 have no gradient, because those after them are zero
    made.optimizer.dynamic_scale.assign(2.0**60)
    before = weights(made.models)
    means = train(made, mel, 1)
    assert np.isfinite(means).all()
    assert all(map(np.array_equal, before, weights(made.models)))
    assert float(made.optimizer.dynamic_scale) == 2.0**59
    made.optimizer.dynamic_scale.assign(2.0**10)
    train(made, mel, 2)
    assert not all(map(np.array_equal, before, weights(made.models)))
    assert all(np.isfinite(weight).all() for weight in weights(made.models))


def test_average_follows_the_weights_and_is_what_validation_measures(small: Path, mel: tf.Tensor) -> None:
    made = stepper(small, average=0.9)
    expected = weights(made.models)
    for step in range(3):
        train(made, mel, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [old + (1 - decay) * (new - old) for old, new in zip(expected, weights(made.models), strict=True)]
    for average, by_hand, now in zip(weights(made.judged), expected, weights(made.models), strict=True):
        np.testing.assert_allclose(average, by_hand, rtol=1e-4, atol=1e-6)
        if now.any():
            assert now.shape == by_hand.shape
    assert not all(map(np.array_equal, weights(made.judged), weights(made.models)))
    sums = made.read(made.evaluate(mel, count=len(mel))[0])
    window = to_mel(mel)
    z_mean, z_log_var = made.judged.encoder(window, training=False)
    terms = measure.losses(window, made.judged.decoder(z_mean, training=False), z_mean, z_log_var)
    expected_sums = [len(mel), np.sum(terms.mse), *np.sum(terms.kl, axis=0)]
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_xla_gives_the_same_figures(small: Path, mel: tf.Tensor, policy: str) -> None:
    plain, compiled = (stepper(small, precision=policy, jit_compile=jit) for jit in ("off", "on"))
    assert (plain.jit, compiled.jit) == (False, True)
    # In half precision the order of the operations changes the result more.
    rtol = 1e-2 if policy == "float32" else 5e-2
    for step in range(3):
        np.testing.assert_allclose(train(compiled, mel, step)[0], train(plain, mel, step)[0], rtol=rtol)
