"""What a model has to beat: the mean training spectrogram, and PCA with as many numbers as z has.

The first is what a collapsed VAE learns. The second is what a linear model learns: of patches along time if the
latent is a sequence, else of whole windows. Both are computed from a sample of the training split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfpipe.evaluation.windows import Windows
from tfpipe.features.log_mel import dequantise
from tfpipe.model import measure
from tfpipe.model.pca import Components, patches, principal_components, reconstruct_patches


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Fitted baselines.

    Attributes:
        mean: the mean training spectrogram, `[n_mels, frames]`.
        pca: principal components of the training patches.
        steps: patches in a window.
        examples: training windows that both were computed from.
    """

    mean: NDArray[np.float32]
    pca: Components
    steps: int
    examples: int

    @classmethod
    def fit(cls, training: NDArray[np.float32], *, shape: tuple[int, int]) -> Baselines:
        """Fits them to log-mels `[n, n_mels, frames]` for a latent of `shape` (steps, channels)."""
        steps, components = shape
        pca = principal_components(patches(training, steps), components)
        return cls(mean=training.mean(axis=0), pca=pca, steps=steps, examples=len(training))

    def errors(self, windows: Iterable[Windows]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the mean squared errors of the mean and of PCA on each window, two arrays `[n]`."""
        mean, pca = [], []
        for batch in windows:
            mel = dequantise(batch.codes)
            mean.append(measure.squared_error(mel, self.mean))
            pca.append(measure.squared_error(mel, reconstruct_patches(self.pca, mel, self.steps)))
        return np.concatenate(mean), np.concatenate(pca)
