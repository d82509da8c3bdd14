"""The prior's sampler, with a velocity that is known exactly, and its network."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfpipe.model import prior
from tfpipe.model.latent_shape import LatentShape
from tfpipe.model.presets import PriorSize
from tfpipe.model.prior import Prior

SHAPE = LatentShape(5, 3)
# Every label's only latent: label 0, label 1, and any label.
TARGETS = np.array([1.0, -2.0, 0.5], np.float32)


class Straight(keras.Model):
    """The velocity of straight lines that all end at the target of the label."""

    def call(self, inputs, training=False):
        x, _, time, label, _ = inputs
        return (tf.gather(TARGETS, label)[:, None, None] - x) / (1.0 - time)[:, None, None]


class Graphs:
    """The methods of a prior as graphs, in which the sampler's loop is fast."""

    def __init__(self, sampled: Prior) -> None:
        self.kept = sampled.kept
        self.draw, self.continue_, self.vary = (
            tf.function(method, autograph=False, reduce_retracing=True)
            for method in (sampled.draw, sampled.continue_, sampled.vary)
        )


@pytest.fixture(scope="module")
def straight() -> Graphs:
    return Graphs(Prior(network=Straight(), shape=SHAPE, labels=2, original=True))


@pytest.fixture(scope="module")
def untrained() -> Graphs:
    """A network whose output depends on all of its inputs."""
    keras.utils.set_random_seed(0)
    network = prior.build(PriorSize(width=16, depth=2), SHAPE, labels=2)
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.3, weight.shape).astype(np.float32) for weight in network.get_weights()])
    return Graphs(Prior(network=network, shape=SHAPE, labels=2, original=False))


def normal(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


def labels(*values: int) -> tf.Tensor:
    return tf.constant(values, tf.int32)


@pytest.mark.parametrize(("label", "target"), [(-1, 0.5), (7, 0.5), (-9, 0.5)])
def test_what_is_no_label_means_any(straight: Graphs, label: int, target: float) -> None:
    np.testing.assert_allclose(straight.draw(normal(1, 15), labels(label)), np.full((1, 15), target), atol=1e-5)


def test_a_draw_is_moved_from_any_label_to_its_own_by_the_guidance(straight: Graphs) -> None:
    """Both velocities are linear here, so the guided one leads to the guided target."""
    drawn = straight.draw(normal(2, 15), labels(0, 1)).numpy()
    expected = TARGETS[2] + prior.GUIDANCE * (TARGETS[:2] - TARGETS[2])
    np.testing.assert_allclose(drawn, np.repeat(expected[:, None], 15, 1), atol=1e-4)


def test_a_row_does_not_depend_on_the_others(untrained: Graphs) -> None:
    noise = normal(4, 15)
    together = untrained.draw(noise, labels(0, 1, -1, 0))
    for row, label in enumerate((0, 1, -1, 0)):
        alone = untrained.draw(noise[row : row + 1], labels(label))
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - untrained.draw(noise[:1], labels(1))[0]).max() > 1e-3


def test_a_continuation_begins_with_the_end_of_the_window_before(untrained: Graphs) -> None:
    z, noise = normal(2, 15), normal(2, 15, seed=1)
    after = untrained.continue_(z, noise, labels(0, -1)).numpy().reshape(2, 5, 3)
    assert untrained.kept == 2
    np.testing.assert_array_equal(after[:, :2], z.numpy().reshape(2, 5, 3)[:, 3:])
    # What is new depends on what was before, and on the noise.
    other = untrained.continue_(-z, noise, labels(0, -1)).numpy().reshape(2, 5, 3)
    fresh = untrained.continue_(z, -noise, labels(0, -1)).numpy().reshape(2, 5, 3)
    assert np.abs(other - after)[:, 2:].max() > 1e-3
    assert np.abs(fresh - after)[:, 2:].max() > 1e-3


def test_variation_goes_from_the_window_itself_to_a_new_draw(untrained: Graphs) -> None:
    z, noise, label = normal(3, 15), normal(3, 15, seed=1), labels(0, 0, 0)
    varied = untrained.vary(z, noise, tf.constant([0.0, 0.1, 1.0]), label)
    np.testing.assert_allclose(varied[0], z[0], atol=1e-6)
    assert 0 < np.abs(varied[1] - z[1]).max() < np.abs(varied[2] - z[2]).max()
    np.testing.assert_allclose(varied[2], untrained.draw(noise, label)[2], atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_an_untrained_network_predicts_the_best_linear_guess_in_any_precision(policy: str) -> None:
    network = prior.build(PriorSize(width=16, depth=1), SHAPE, labels=2, policy=policy)
    rng = np.random.default_rng(0)
    z, noise, time = rng.standard_normal((2, 4000)), rng.standard_normal((2, 4000)), np.array([0.2, 0.7])
    x = (1 - time)[:, None] * noise + time[:, None] * z
    slopes = [np.polyfit(line, velocity, 1)[0] for line, velocity in zip(x, z - noise, strict=True)]
    given = tf.ones([2, 5, 3])
    velocity = network([given, tf.zeros([2, 5]), tf.constant(time, tf.float32), labels(0, 2), labels(0, 1)])
    assert velocity.dtype == tf.float32
    np.testing.assert_allclose(velocity, np.tile(np.array(slopes)[:, None, None], (1, 5, 3)), atol=0.05)
