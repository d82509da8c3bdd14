"""The map: similar latents lie near each other, whatever the number of windows."""

import numpy as np
import pytest
from pyarrow import parquet

from tfpipe.run_report.window_map import layout, write_parquet


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 40])
def test_any_number_of_windows_has_places(count):
    z = np.random.default_rng(0).normal(size=(count, 12))
    places = layout(z, (3, 4))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert places.min() >= 0.0
    assert places.max() <= 1.0
    np.testing.assert_array_equal(places, layout(z, (3, 4)))


def test_alike_windows_lie_together():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2], 20)
    z = (rng.normal(size=(3, 1, 8)) * 3)[group] + 0.3 * rng.normal(size=(60, 6, 8))
    places = layout(z.reshape(60, -1), (6, 8))
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).all()


def test_when_in_a_window_something_happens_does_not_count():
    z = np.random.default_rng(2).normal(size=(10, 6, 4))
    moved = np.roll(z, 2, axis=1)
    places = layout(np.concatenate([z, moved]).reshape(20, -1), (6, 4))
    nearest = np.linalg.norm(places[:10, None] - places[None, 10:], axis=2).argmin(axis=1)
    assert (nearest == np.arange(10)).mean() > 0.8


def test_equal_windows_have_a_place():
    assert np.isfinite(layout(np.ones((7, 4)), (1, 4))).all()


def test_the_table_holds_numbers_texts_and_vectors(tmp_path):
    write_parquet(tmp_path / "x.parquet", {"a": [1.5, 2.5], "b": ["x", "y"], "z": np.eye(2, 3, dtype=np.float32)})
    assert parquet.read_table(tmp_path / "x.parquet").to_pydict() == {
        "a": [1.5, 2.5],
        "b": ["x", "y"],
        "z": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    }
