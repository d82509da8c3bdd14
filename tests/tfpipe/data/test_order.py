"""The order of the examples: a permutation that is computed place by place."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tfpipe.data.order import BLOCK, POOL, Order, Share

MANY = [Share(index, index % 3, int(size)) for index, size in enumerate(np.random.default_rng(0).integers(0, 700, 40))]


def pairs(order: Order, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    found = order.places(np.arange(start, order.total if end is None else end))
    return list(zip(found.shards.tolist(), found.records.tolist(), strict=True))


@pytest.mark.parametrize("shares", [[Share(0, 0, 1)], [Share(0, 3, 33), Share(1, 0, 32), Share(2, 0, 1)], MANY])
@pytest.mark.parametrize("seed", [None, 0, 5])
def test_every_record_comes_once_and_any_part_is_found_alone(shares: list[Share], seed: int | None) -> None:
    order = Order(shares, seed=seed, epoch=1)
    everything = [(share.shard, share.skip + number) for share in shares for number in range(share.take)]
    found = pairs(order)
    assert sorted(found) == sorted(everything)
    assert (found == everything) == (seed is None or len(everything) == 1)
    again = Order(shares, seed=seed, epoch=1)
    for start in range(0, order.total, 997):
        end = min(start + 64, order.total)
        assert pairs(again, start, end) == found[start:end]


def test_pools_hold_whole_blocks_from_the_whole_split() -> None:
    order = Order([Share(index, 0, 100 * BLOCK) for index in range(30)], seed=1, epoch=0)
    pool = order.pool(3)
    starts = pool.records.reshape(-1, BLOCK)
    assert (np.diff(starts) == 1).all()
    assert len(np.unique(pool.shards)) > 25
    inside = Order.within(order, 3)
    assert sorted(inside.tolist()) == list(range(POOL))
    # A batch is of many blocks: 64 draws from 128 blocks meet about 50 of them.
    found = order.places(np.arange(3 * POOL, 3 * POOL + 64))
    assert len(set(zip(found.shards.tolist(), (found.records // BLOCK).tolist(), strict=True))) > 38


def test_the_order_of_a_seed_is_always_the_same() -> None:
    """Runs that were stopped by one version are continued by the next. If this must change, raise `ORDER_VERSION`."""
    order = Order([Share(0, 0, 100), Share(1, 0, 77)], seed=7, epoch=3)
    assert pairs(order, 0, 6) == EXPECTED
    assert pairs(Order([Share(0, 0, 100), Share(1, 0, 77)], seed=7, epoch=4), 0, 6) != EXPECTED


def test_a_place_in_many_examples_is_found_with_little_memory() -> None:
    order = Order([Share(index, 0, 5001) for index in range(2000)], seed=1, epoch=2)
    tracemalloc.start()
    try:
        assert len(set(pairs(order, order.total - 64))) == 64
        assert tracemalloc.get_traced_memory()[1] < 4e6  # a list of all examples would take 80 MB
    finally:
        tracemalloc.stop()


EXPECTED = [(1, 65), (0, 78), (1, 24), (0, 88), (0, 55), (1, 47)]
