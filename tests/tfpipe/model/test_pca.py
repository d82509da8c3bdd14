"""PCA: its components, and a model that starts from them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tfpipe.model import networks
from tfpipe.model.pca import principal_components, start_from_pca
from tfpipe.spec import FeatureSpec

SPEC = FeatureSpec(n_mels=32, window_s=1.0)


@pytest.fixture(scope="module")
def mels() -> NDArray[np.float32]:
    """40 windows around 0.5 that three factors make."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((40, 3)) @ rng.standard_normal((3, SPEC.n_mels * SPEC.frames)) * 0.03
    return (0.5 + factors).reshape(40, *SPEC.mel_shape).astype(np.float32)


def test_components_are_orthonormal_and_as_many_as_the_rank(mels: NDArray[np.float32]) -> None:
    components = principal_components(mels, 8)
    assert len(components.basis) == 3
    np.testing.assert_allclose(components.basis @ components.basis.T, np.eye(3), atol=1e-4)
    assert sorted(components.deviations, reverse=True) == list(components.deviations)
    windows = mels.reshape(40, -1)
    np.testing.assert_allclose(components.reconstruct(windows), windows, atol=1e-4)


def test_model_starts_with_the_error_of_pca(mels: NDArray[np.float32]) -> None:
    models = networks.build("tiny", SPEC, latent=3)
    start_from_pca(models, mels)
    z_mean, _ = models.encoder(mels[..., None])
    rebuilt = np.asarray(models.decoder(z_mean))[..., 0]
    np.testing.assert_allclose(np.std(z_mean, axis=0), 1.0, rtol=0.05)
    assert np.square(rebuilt - mels).mean() < 0.1 * mels.var(axis=0).mean()


def test_fewer_windows_than_dimensions_leave_the_rest_at_zero(mels: NDArray[np.float32]) -> None:
    models = networks.build("tiny", SPEC, latent=8)
    start_from_pca(models, mels[:3])
    z_mean = np.asarray(models.encoder(mels[:3, ..., None])[0])
    assert np.isfinite(z_mean).all()
    assert (z_mean[:, 3:] == 0.0).all()
