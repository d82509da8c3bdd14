"""Where the mel bands lie."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from tfpipe.features.log_mel import mel_basis
from tfpipe.spec import FeatureSpec


@functools.lru_cache(maxsize=16)
def band_centres(spec: FeatureSpec) -> NDArray[np.float64]:
    """Returns the mean frequency of each mel filter, `[n_mels]`, Hz."""
    basis = mel_basis(spec).toarray()
    hz = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    return np.asarray(basis @ hz / basis.sum(axis=1))
