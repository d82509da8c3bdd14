"""Places windows on a plane so that windows with similar latents lie near each other. Does not load TensorFlow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.files.storage import atomic_write

# t-SNE looks at about this many neighbours of each window; it needs more windows than that.
_NEIGHBOURS = 20.0


def layout(z: NDArray[np.floating[Any]], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Returns a place in [0, 1] x [0, 1] for each window, `[n, 2]`; the same latents give the same places.

    What happens when in a window should not decide where it lies, so each channel of the latent counts with its mean
    and its deviation over the steps. t-SNE (van der Maaten and Hinton, 2008) starts from two principal components.

    Args:
        z: latents `[n, steps * channels]`.
        shape: steps and channels.
    """
    steps = np.asarray(z, np.float64).reshape(len(z), *shape)
    features = np.concatenate([steps.mean(axis=1), steps.std(axis=1)], axis=1)
    centred = features - features.mean(axis=0)
    if len(z) < 5:
        places = _principal(centred)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(_NEIGHBOURS, (len(z) - 1) / 3.0)
        start = _principal(centred)
        start *= 1e-4 / max(float(start[:, 0].std()), 1e-12)
        with warnings.catch_warnings(action="ignore"):
            places = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(centred)
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, 1e-12), np.float64)


def _principal(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the first two principal components, `[n, 2]`; a missing one is 0."""
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    found = left[:, :2] * size[:2]
    return np.asarray(np.pad(found, ((0, 0), (0, 2 - found.shape[1]))))


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    """Writes columns as a Parquet file, which embedding viewers such as embedding-atlas read.

    Args:
        path: the file to write.
        columns: values `[n]`, or vectors `[n, d]`, by name.

    Raises:
        TfpipeError: the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {name: list(value) if np.ndim(value) == 2 else value for name, value in columns.items()}
    with atomic_write(path) as file:
        parquet.write_table(pa.table({name: pa.array(value) for name, value in arrays.items()}), file)
