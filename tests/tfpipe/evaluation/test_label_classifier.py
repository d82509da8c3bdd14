"""The classifier of labels."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeClassifier

from tfpipe.evaluation.label_classifier import _PENALTY, LabelClassifier


def test_it_answers_as_a_balanced_ridge_classifier() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 20, 20])
    points = rng.standard_normal((100, 5)) + 0.8 * np.eye(3, 5)[labels]
    sizes = np.bincount(labels)
    weight = 1.0 / sizes[labels] / 3
    centred = points - weight @ points
    penalty = _PENALTY * np.mean(weight @ np.square(centred))
    # scikit-learn's weights of the rows sum to their number, ours to 1.
    golden = RidgeClassifier(alpha=penalty * len(points), class_weight="balanced").fit(points, labels)
    found = LabelClassifier.fit(points, labels, count=3)
    np.testing.assert_allclose(found.weights.T, golden.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.bias, golden.intercept_, rtol=1e-6, atol=1e-9)
    fresh = rng.standard_normal((50, 5))
    np.testing.assert_array_equal(found.predict(fresh), golden.predict(fresh))


def test_a_label_without_points_is_never_the_answer() -> None:
    points = np.random.default_rng(0).standard_normal((20, 4))
    found = LabelClassifier.fit(points, np.arange(20) % 2 * 2, count=4)
    assert set(found.predict(10 * points)) <= {0, 2}


def test_equal_points_do_not_stop_it() -> None:
    found = LabelClassifier.fit(np.zeros((4, 3)), np.array([0, 1, 0, 1]), count=2)
    assert found.predict(np.ones((2, 3))).shape == (2,)
