"""`tfpipe bench train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfpipe.bench.boundary import measure_boundary
from tfpipe.bench.training import bench_train
from tfpipe.errors import UsageError


@pytest.mark.slow
def test_results_are_ratios_within_one_run(small: Path) -> None:
    results = {result.name: result for result in bench_train(small, rounds=1, steps=2)}
    assert results["the notebook's Keras code, float32"].ratio == 1.0
    for preset in ("notebook", "sequence"):
        mine = {name: result for name, result in results.items() if name.startswith(f"{preset}, ")}
        assert [result.against for result in mine.values()] == ["limit", "limit", "baseline", None]
        assert all(result.value > 0 for result in mine.values())


def test_no_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="rounds=0"):
        bench_train(rounds=0)


@pytest.mark.slow
def test_the_pause_between_epochs_is_measured() -> None:
    step, pause = measure_boundary(150, rounds=1)
    assert step.value >= 2.0
    assert pause.unit == "ms"
    with pytest.raises(UsageError, match="examples=31"):
        measure_boundary(31, rounds=1)
