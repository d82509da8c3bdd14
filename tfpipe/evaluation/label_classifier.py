"""A small classifier of labels, to tell whether draws sound like the label that was asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Weight of the penalty, as a share of the mean square of the features.
_PENALTY = 0.1


class LabelClassifier(NamedTuple):
    """Ridge regression of one-hot labels, each label with the same total weight (as scikit-learn's RidgeClassifier).

    Attributes:
        weights: `[features, labels]`.
        bias: `[labels]`.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def fit(cls, points: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], *, count: int) -> LabelClassifier:
        """Fits it.

        Args:
            points: `[n, features]`, such as embeddings of training windows.
            labels: `[n]`, in 0 to `count - 1`.
            count: number of labels; one that no point has is never the answer.
        """
        sizes = np.bincount(labels, minlength=count)
        weight = 1.0 / np.maximum(sizes, 1)[labels]
        weight /= weight.sum()
        targets = np.where(np.arange(count) == labels[:, None], 1.0, -1.0)
        points = np.asarray(points, np.float64)
        centre, target_centre = weight @ points, weight @ targets
        centred = points - centre
        inner = centred.T @ (weight[:, None] * centred)
        penalty = _PENALTY * max(float(np.trace(inner)) / len(inner), 1e-12)
        outer = centred.T @ (weight[:, None] * (targets - target_centre))
        weights = np.linalg.solve(inner + penalty * np.eye(len(inner)), outer)
        bias = target_centre - centre @ weights
        return cls(weights, np.where(sizes > 0, bias, -np.inf))

    def predict(self, points: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Returns the likeliest label of each point `[n, features]`, `[n]`."""
        return np.asarray(np.argmax(points @ self.weights + self.bias, axis=1), np.int64)
