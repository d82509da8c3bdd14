"""Samples of streamed windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.evaluation.windows import Sampler, Windows


def _windows(first: int, count: int) -> Windows:
    numbers = np.arange(first, first + count)
    return Windows(
        codes=np.tile(numbers.astype(np.uint8)[:, None, None], (1, 2, 3)),
        ref_db=numbers.astype(np.float32),
        label=numbers % 2,
        key=np.array([f"track{n % 3}/{n:012d}/{'original' if n % 2 else 'shift+4'}" for n in numbers]),
    )


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 20), st.integers(0, 99))
def test_a_sample_does_not_depend_on_the_batches(sizes: list[int], most: int, seed: int) -> None:
    total = sum(sizes)
    sampler, start = Sampler.random(total, most, seed=seed), 0
    for size in sizes:
        sampler.add(_windows(start, size))
        start += size
    whole = Sampler.random(total, most, seed=seed)
    whole.add(_windows(0, total))
    kept = sampler.windows()
    assert len(kept) == min(total, most)
    assert len(set(kept.ref_db)) == len(kept)
    np.testing.assert_array_equal(kept.ref_db, whole.windows().ref_db)
    np.testing.assert_array_equal(kept.key, whole.windows().key)


def test_track_and_variant_are_read_from_the_key() -> None:
    windows = _windows(0, 4)
    assert windows.track.tolist() == ["track0", "track1", "track2", "track0"]
    assert windows.is_original.tolist() == [False, True, False, True]
    np.testing.assert_allclose(windows.mels[3], 3 / 255)


def test_batches_give_every_window_once() -> None:
    parts = list(_windows(0, 70).batches())
    assert [len(part) for part in parts] == [32, 32, 6]
    np.testing.assert_array_equal(np.concatenate([part.ref_db for part in parts]), np.arange(70))
