"""Distances between two sets of points, such as embeddings of draws and of recordings. Loads no TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating[Any]]
# The kernel audio distance is given times this, as its authors do.
_KAD_SCALE = 100.0


def kernel_distance(one: Points, other: Points, *, bandwidth: float) -> float:
    """Returns the kernel audio distance: 100 times the unbiased squared MMD with a Gaussian kernel.

    It is 0 in expectation if both sets come from one distribution, whatever their sizes, so it can be slightly
    negative (Gretton et al., 2012, "A Kernel Two-Sample Test", equation 3; Chung et al., 2025, "KAD: No More FAD!").

    Args:
        one: `[n, d]`, at least two points.
        other: `[m, d]`, at least two points.
        bandwidth: the kernel is exp(-distance^2 / (2 bandwidth^2)); the median distance between points is usual.
    """
    n, m = len(one), len(other)
    within_one, within_other, across = (
        np.exp(squared_distances(a, b) / (-2.0 * bandwidth**2)) for a, b in ((one, one), (other, other), (one, other))
    )
    # A point's kernel with itself, which is 1, does not count.
    alike = (within_one.sum() - n) / (n * (n - 1)) + (within_other.sum() - m) / (m * (m - 1))
    return float(_KAD_SCALE * (alike - 2.0 * across.mean()))


def median_distance(points: Points) -> float:
    """Returns the median distance between two different points of `[n, d]`, or 1.0 if that would be 0."""
    upper = np.triu_indices(len(points), 1)
    median = float(np.median(np.sqrt(squared_distances(points, points)[upper]))) if len(points) > 1 else 0.0
    return median if median > 0.0 else 1.0


def frechet_distance(one: Points, other: Points) -> float:
    """Returns the squared Frechet distance between Gaussians fitted to both sets.

    It is |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau, 1982; Heusel et al., 2017). The trace of
    the root is the sum of the singular values of A B^T if A and B are the centred sets over the roots of their
    sizes. This avoids the root of a matrix that is singular if there are few points.

    Args:
        one: `[n, d]`, at least two points.
        other: `[m, d]`, at least two points.
    """
    (first, a), (second, b) = (_centred(points) for points in (one, other))
    cross = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    squares = float(np.square(a).sum() + np.square(b).sum())
    return float(np.square(first - second).sum()) + max(0.0, squares - 2.0 * cross)


def density_coverage(real: Points, made: Points, *, neighbours: int = 5) -> tuple[float, float]:
    """Returns density and coverage of made points among real ones (Naeem et al., 2020, equations 2 and 3).

    Around each real point lies a ball that reaches to its k-th nearest real neighbour. The density is the mean
    number of balls that a made point lies in, over k: below 1 if made points lie where real ones are rare. The
    coverage is the share of real points whose ball holds a made point: low if kinds of real points are not made.

    Args:
        real: `[n, d]`, at least two points.
        made: `[m, d]`.
        neighbours: k, at most n - 1.
    """
    k = min(neighbours, len(real) - 1)
    among = squared_distances(real, real)
    np.fill_diagonal(among, np.inf)
    reach = np.partition(among, k - 1, axis=1)[:, k - 1]
    inside = squared_distances(real, made) <= reach[:, None]
    return float(inside.sum() / (k * len(made))), float(inside.any(axis=1).mean())


def nearest(points: Points, among: Points, *, block: int = 256) -> NDArray[np.float64]:
    """Returns the distance of each point `[n, d]` to the nearest of `among` `[m, d]`, `[n]`."""
    parts = [squared_distances(points[at : at + block], among).min(axis=1) for at in range(0, len(points), block)]
    return np.asarray(np.sqrt(np.concatenate(parts)))


def squared_distances(one: Points, other: Points) -> NDArray[np.float64]:
    """Returns the squared distance between each point of `[n, d]` and each of `[m, d]`, `[n, m]` float64."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    squares = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2.0 * one @ other.T
    return np.asarray(np.maximum(squares, 0.0))


def _centred(points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean, and the points without it, scaled so that their Gram matrix is that of the covariance."""
    points = np.asarray(points, np.float64)
    mean = points.mean(axis=0)
    return mean, (points - mean) / np.sqrt(len(points) - 1)
