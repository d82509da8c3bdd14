"""Principal components of log-mels: the start of a model's linear path, and evaluation's linear baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tfpipe.model.networks import Models


class Components(NamedTuple):
    """The leading principal components of a set of windows.

    Attributes:
        mean: mean of the windows, `[pixels]` float32.
        basis: orthonormal rows `[k, pixels]` float32, the one with the largest variance first.
        deviations: standard deviation of the windows along each row, `[k]` float32.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    deviations: NDArray[np.float32]

    def reconstruct(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns what the components keep of `windows` `[n, pixels]`, of the same shape."""
        return self.mean + ((windows - self.mean) @ self.basis.T) @ self.basis


def principal_components(mels: NDArray[np.float32], count: int) -> Components:
    """Finds the leading principal components from the Gram matrix, which suits fewer windows than pixels.

    Args:
        mels: `[n, n_mels, frames]`.
        count: how many components; there are fewer if the windows have a lower rank.
    """
    data = mels.reshape(len(mels), -1).astype(np.float32)
    mean = data.mean(axis=0)
    centred = data - mean
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    order = np.argsort(values)[::-1][:count]
    order = order[values[order] > 1e-7 * max(float(values.max()), 1e-30)]
    basis = (vectors[:, order] / np.sqrt(values[order])).T @ centred
    # The sign of an eigenvector is arbitrary; the largest element is made positive, so that all machines agree.
    basis *= np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
    deviations = np.sqrt(values[order] / len(centred))
    return Components(mean, basis.astype(np.float32), deviations.astype(np.float32))


def start_from_pca(models: Models, mels: NDArray[np.float32]) -> None:
    """Sets the linear path of a fresh model to PCA, so that training starts with the error of a linear model.

    z becomes the standardised principal components. The decoder's kernel becomes the regression of the
    logits on z, and its band bias the mean spectrum. A model without a linear path stays as it is.

    Args:
        models: freshly built.
        mels: `[n, n_mels, frames]` in [0, 1], a sample of the training split.
    """
    if not any(layer.name == "linear" for layer in models.encoder.layers):
        return
    latent, pixels = models.decoder.input_shape[-1], int(np.prod(mels.shape[1:]))
    mean, basis, deviations = principal_components(mels, latent)
    towards_z = np.zeros((pixels, latent), np.float32)
    towards_z[:, : len(basis)] = basis.T / deviations
    clipped = np.clip(mels, 0.02, 0.98)
    logits = np.log(clipped / (1.0 - clipped))
    profile = logits.mean(axis=(0, 2)).astype(np.float32)
    centred = (logits - profile[:, None]).reshape(len(mels), pixels)
    z = (mels.reshape(len(mels), pixels).astype(np.float32) - mean) @ towards_z
    models.encoder.get_layer("linear").kernel.assign(towards_z)
    models.encoder.get_layer("z_mean").bias.assign(-mean @ towards_z)
    models.decoder.get_layer("linear").kernel.assign(z.T @ centred / len(mels))
    models.decoder.get_layer("band_bias").bias.assign(profile.reshape(1, -1, 1, 1))
