"""Batches that the threads of requests form themselves."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_tools import eventually

from serving.protocol.status import Code, StatusError
from serving.server.config_files import Batching
from serving.server.models.row_batches import Arrays, RowBatches


class Model:
    """Doubles its rows. While it is held, batches wait inside it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self._inside = threading.Lock()
        self.most = self.inside = 0

    def run(self, inputs: Arrays) -> Arrays:
        with self._inside:
            self.sizes.append(len(inputs["x"]))
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.free.wait(30)
        with self._inside:
            self.inside -= 1
        if np.isnan(inputs["x"]).any():
            raise StatusError(Code.INVALID_ARGUMENT, "a bad row")
        return {"y": 2 * inputs["x"]}


def rows(first: int, count: int = 1) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)[:, np.newaxis]


def test_requests_that_wait_are_computed_together_in_their_order() -> None:
    model = Model()
    batches = RowBatches(model.run, Batching(max_batch_size=4, num_batch_threads=1))
    model.free.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batches.run, {"x": rows(0)}, rows=1)
        eventually(lambda: model.inside == 1)
        others = []
        for number, count in enumerate((2, 1, 3, 1), start=1):
            others.append(pool.submit(batches.run, {"x": rows(10 * number, count)}, rows=count))
            eventually(lambda: len(batches._waiting) == len(others))
        model.free.set()
        assert first.result()["y"].tolist() == [[0.0]]
        for number, (one, count) in enumerate(zip(others, (2, 1, 3, 1), strict=True), start=1):
            np.testing.assert_array_equal(one.result()["y"], 2 * rows(10 * number, count))
    assert model.sizes == [1, 3, 4]
    assert batches._leaders == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_request_gets_its_own_rows_under_load(threads: int) -> None:
    model = Model()
    batches = RowBatches(model.run, Batching(max_batch_size=8, num_batch_threads=threads))

    def one(number: int) -> bool:
        x = rows(100 * number, 1 + number % 5)
        return np.array_equal(batches.run({"x": x}, rows=len(x))["y"], 2 * x)

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(2000)))
    assert model.most <= threads
    assert max(model.sizes) <= 8
    assert (batches._leaders, len(batches._waiting)) == (0, 0)


def test_an_error_reaches_every_request_of_the_batch_and_no_other() -> None:
    model = Model()
    batches = RowBatches(model.run, Batching(max_batch_size=2, num_batch_threads=1))
    model.free.clear()
    with ThreadPoolExecutor(4) as pool:
        asked = []
        for x in (rows(0), np.full((1, 1), np.nan, np.float32), rows(1), rows(2)):
            asked.append(pool.submit(batches.run, {"x": x}, rows=1))
            eventually(lambda: len(batches._waiting) == len(asked) - 1 and model.inside == 1)
        model.free.set()
        assert [type(one.exception()) for one in asked] == [type(None), StatusError, StatusError, type(None)]
    assert batches.run({"x": rows(5)}, rows=1)["y"].tolist() == [[10.0]]


def test_a_model_that_breaks_gives_an_answer_too() -> None:
    def run(inputs: Arrays) -> Arrays:
        raise MemoryError

    batches = RowBatches(run, Batching())
    with pytest.raises(StatusError, match="could not be computed"):
        batches.run({"x": rows(0)}, rows=1)
    assert batches._leaders == 0


def test_a_batch_waits_for_more_rows_only_until_it_is_full() -> None:
    model = Model()
    batches = RowBatches(model.run, Batching(max_batch_size=3, num_batch_threads=1, batch_timeout_micros=30_000_000))
    started = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(lambda number: batches.run({"x": rows(number)}, rows=1), range(3)))) == 3
    assert model.sizes == [3]
    assert time.monotonic() - started < 20.0
    short = RowBatches(model.run, Batching(batch_timeout_micros=1000))
    assert short.run({"x": rows(1)}, rows=1)["y"].tolist() == [[2.0]]
