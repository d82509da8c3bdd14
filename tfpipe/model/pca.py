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
    """Finds the leading principal components, from the smaller of the covariance and the Gram matrix.

    Args:
        mels: `[n, ...]`; each row counts as one vector, such as a window `[n_mels, frames]`.
        count: how many components; there are fewer if the rows have a lower rank.
    """
    data = mels.reshape(len(mels), -1).astype(np.float32)
    mean = data.mean(axis=0)
    centred = data - mean
    is_wide = data.shape[0] < data.shape[1]
    square = centred @ centred.T if is_wide else centred.T @ centred
    values, vectors = np.linalg.eigh(square.astype(np.float64))
    order = np.argsort(values)[::-1][:count]
    order = order[values[order] > 1e-7 * max(float(values.max()), 1e-30)]
    basis = (vectors[:, order] / np.sqrt(values[order])).T @ centred if is_wide else vectors[:, order].T
    # The sign of an eigenvector is arbitrary; the largest element is made positive, so that all machines agree.
    basis *= np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
    deviations = np.sqrt(values[order] / len(centred))
    return Components(mean, basis.astype(np.float32), deviations.astype(np.float32))


def patches(mels: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Cuts windows `[n, n_mels, frames]` into patches along time, `[n * steps, patch, n_mels]`.

    The last patch is padded with 0 if the steps do not divide the frames, as the network pads it.
    """
    count, bands, frames = mels.shape
    patch = -(-frames // steps)
    padded = np.pad(mels, ((0, 0), (0, 0), (0, steps * patch - frames)))
    return np.ascontiguousarray(padded.transpose(0, 2, 1)).reshape(count * steps, patch, bands)


def reconstruct_patches(found: Components, mels: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Returns what components of patches keep of windows `[n, n_mels, frames]`, of the same shape."""
    count, bands, frames = mels.shape
    rebuilt = found.reconstruct(patches(mels, steps).reshape(count * steps, -1))
    return rebuilt.reshape(count, -1, bands).transpose(0, 2, 1)[..., :frames]


def start_from_pca(models: Models, mels: NDArray[np.float32]) -> None:
    """Sets the linear path of a fresh model to PCA, so that training starts with the error of a linear model.

    z becomes the standardised principal components, of each patch if the latent is a sequence. A model without a
    linear path stays as it is.

    Args:
        models: freshly built.
        mels: `[n, n_mels, frames]` in [0, 1], a sample of the training split.
    """
    kernels = [layer.kernel.shape for layer in models.encoder.layers if layer.name == "linear"]
    if not kernels:
        return
    if len(kernels[0]) == 3:
        _start_sequence(models, mels)
    else:
        _start_vector(models, mels)


def _start_sequence(models: Models, mels: NDArray[np.float32]) -> None:
    """Sets encoder and decoder to PCA of patches, and the posterior to the best deviation for these components."""
    encoder, decoder = models.encoder, models.decoder
    kernel = encoder.get_layer("linear").kernel  # [patch, n_mels, channels]
    channels, steps = kernel.shape[2], -(-mels.shape[2] // kernel.shape[0])
    rows = patches(mels, steps)
    found = principal_components(rows, channels)
    width = found.mean.size
    towards_z, back = np.zeros((width, channels), np.float32), np.zeros((channels, width), np.float32)
    towards_z[:, : len(found.basis)] = found.basis.T / found.deviations
    back[: len(found.basis)] = found.basis * found.deviations[:, None]
    kernel.assign(towards_z.reshape(kernel.shape))
    encoder.get_layer("z_mean").bias.assign(-found.mean @ towards_z)
    decoder.get_layer("linear").kernel.assign(back)
    decoder.get_layer("linear").bias.assign(found.mean)
    flat = rows.reshape(len(rows), -1)
    error = float(np.square(flat - found.reconstruct(flat)).sum(axis=1).mean())
    encoder.get_layer("z_log_var").bias.assign(_log_variances(found.deviations, error, channels, width))


def _log_variances(deviations: NDArray[np.float32], error: float, channels: int, width: int) -> NDArray[np.float32]:
    """Returns the log variances of the posterior that minimise the `gaussian` objective of a linear model.

    A component of variance v whose z has the posterior variance q adds v q to the error. The bound is best at
    q = s / (s + v), where s is the error per pixel, which in turn depends on all q. A few rounds settle both.

    Args:
        deviations: of the components, at most `channels`.
        error: what the components leave of a patch, summed over its pixels.
        channels: numbers in a step.
        width: pixels of a patch.
    """
    variances = np.zeros(channels)
    variances[: len(deviations)] = np.square(deviations, dtype=np.float64)
    share = max(error / width, 1e-9)
    for _ in range(20):
        posterior = share / (share + variances)
        share = max((error + float((variances * posterior).sum())) / width, 1e-9)
    return np.asarray(np.log(posterior), np.float32)


def _start_vector(models: Models, mels: NDArray[np.float32]) -> None:
    """Sets the encoder to PCA of windows, and the decoder to the regression of the logits on z."""
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
