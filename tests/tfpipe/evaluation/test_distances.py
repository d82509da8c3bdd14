"""Distances between sets of points, against straightforward formulations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from tfpipe.evaluation import distances


def _points(count: int, *, seed: int, size: int = 3, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)) + shift


def test_kernel_distance_is_the_unbiased_squared_mmd() -> None:
    one, other, bandwidth = _points(7, seed=0), _points(5, seed=1, shift=0.5), 1.7

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-np.sum((x - y) ** 2) / (2 * bandwidth**2)))

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])
        for rows in (one, other)
    ]
    across = np.mean([kernel(x, y) for x in one for y in other])
    expected = 100.0 * (sum(within) - 2 * across)
    assert distances.kernel_distance(one, other, bandwidth=bandwidth) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_of_one_distribution_is_zero_in_the_mean_and_not_in_bits() -> None:
    found = [
        distances.kernel_distance(_points(10, seed=seed), _points(30, seed=1000 + seed), bandwidth=2.0)
        for seed in range(200)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0.0


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_frechet_distance_is_that_of_gaussians_of_any_rank(n: int, m: int, size: int, seed: int) -> None:
    one, other = _points(n, seed=seed, size=size), _points(m, seed=seed + 1, size=size, shift=0.3)
    covariances = [np.atleast_2d(np.cov(rows.T)) for rows in (one, other)]
    # By roots of symmetric matrices, because `sqrtm` of a singular product fails.
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0.0)).sum()
    means = one.mean(axis=0) - other.mean(axis=0)
    expected = means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    assert distances.frechet_distance(one, other) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert distances.frechet_distance(other, one) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_frechet_distance_of_full_rank_is_the_textbook_formula() -> None:
    one, other = _points(50, seed=0), _points(60, seed=1, shift=1.0) * [1.0, 2.0, 0.5]
    covariances = [np.cov(rows.T) for rows in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = one.mean(axis=0) - other.mean(axis=0)
    expected = means @ means + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert distances.frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_density_and_coverage_count_points_in_balls_around_real_ones() -> None:
    real, made = _points(40, seed=0), np.concatenate([_points(20, seed=1), _points(10, seed=2, shift=9.0)])
    reach = NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, 5]  # the first neighbour is the point
    inside = np.linalg.norm(real[:, None] - made, axis=2) <= reach[:, None]
    density, coverage = distances.density_coverage(real, made)
    assert density == pytest.approx(inside.sum() / (5 * 30))
    assert coverage == pytest.approx(inside.any(axis=1).mean())


def test_density_and_coverage_of_two_real_points_use_one_neighbour() -> None:
    assert distances.density_coverage(np.array([[0.0], [1.0]]), np.array([[0.1]])) == (2.0, 1.0)


def test_nearest_is_the_smallest_distance_in_blocks_of_any_size() -> None:
    points, among = _points(23, seed=0), _points(11, seed=1)
    expected = np.linalg.norm(points[:, None] - among, axis=2).min(axis=1)
    for block in (1, 7, 100):
        np.testing.assert_allclose(distances.nearest(points, among, block=block), expected, rtol=1e-9)


def test_median_distance_never_is_zero() -> None:
    assert distances.median_distance(np.array([[0.0], [1.0], [4.0]])) == pytest.approx(3.0)
    assert distances.median_distance(np.zeros((4, 2))) == 1.0
    assert distances.median_distance(np.zeros((1, 2))) == 1.0
