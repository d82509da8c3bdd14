"""The sequence networks: they start with the error of PCA of patches, and gain from training."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.model import networks
from tfpipe.model.pca import patches, principal_components, reconstruct_patches, start_from_pca
from tfpipe.model.sequence import Clip
from tfpipe.spec import FeatureSpec

# 5 bands and 22 frames: three patches of 8 frames do not divide them.
SPEC = FeatureSpec(n_mels=5, window_s=21 * 512 / 22_050)


@pytest.fixture(scope="module")
def mels() -> NDArray[np.float32]:
    """60 windows of noise that is smooth along time."""
    noise = np.random.default_rng(0).uniform(size=(60, SPEC.n_mels, SPEC.frames + 4))
    smooth = np.mean([noise[..., shift : shift + SPEC.frames] for shift in range(5)], axis=0)
    return smooth.astype(np.float32)


def test_it_starts_with_the_error_of_pca_of_patches(mels: NDArray[np.float32]) -> None:
    models = networks.build("tiny", SPEC, latent="3x6")
    start_from_pca(models, mels)
    z_mean, z_log_var = models.encoder(mels[..., None])
    rebuilt = np.asarray(models.decoder(z_mean))[..., 0]
    expected = reconstruct_patches(principal_components(patches(mels, 3), 6), mels, 3)
    np.testing.assert_allclose(rebuilt, np.clip(expected, 0.0, 1.0), atol=1e-4)
    steps = np.asarray(z_mean).reshape(-1, 6)
    np.testing.assert_allclose(np.sqrt(np.square(steps).mean(axis=0)), 1.0, rtol=1e-3)
    # The posterior is wider where a component says less about the window.
    deviation = np.exp(0.5 * np.asarray(z_log_var)).reshape(-1, 6)
    assert (np.diff(deviation, axis=1) > 0).all()
    assert deviation.min() > 0.0
    assert deviation.max() < 1.0


def test_steps_of_z_are_along_time(mels: NDArray[np.float32]) -> None:
    models = networks.build("tiny", SPEC, latent="3x6")
    start_from_pca(models, mels)
    changed = mels[:1].copy()
    changed[..., 16:] = 0.0  # the last patch alone
    before, after = (np.asarray(models.encoder(x[..., None])[0]).reshape(3, 6) for x in (mels[:1], changed))
    np.testing.assert_allclose(before[:2], after[:2], atol=1e-5)
    assert not np.allclose(before[2], after[2])


def test_patches_are_cut_and_put_together_again(mels: NDArray[np.float32]) -> None:
    assert patches(mels, 3).shape == (180, 8, 5)
    everything = principal_components(patches(mels, 3), 40)
    np.testing.assert_allclose(reconstruct_patches(everything, mels, 3), mels, atol=1e-4)


def test_a_limited_value_goes_on_learning() -> None:
    x = tf.Variable([-0.5, 0.5, 1.5])
    with tf.GradientTape() as tape:
        y = Clip()(x)
    np.testing.assert_array_equal(y, [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(tape.gradient(y, x), [1.0, 1.0, 1.0])


def test_rows_do_not_depend_on_each_other(mels: NDArray[np.float32]) -> None:
    models = networks.build("tiny", SPEC)
    start_from_pca(models, mels)
    z_mean, _ = models.encoder(mels[:4, ..., None])
    np.testing.assert_allclose(models.encoder(mels[2:3, ..., None])[0], z_mean[2:3], atol=1e-5)
    np.testing.assert_allclose(models.decoder(z_mean[2:3]), models.decoder(z_mean)[2:3], atol=1e-5)
