"""The order in which the examples of a split are read. Does not load TensorFlow.

The order is a function of (seed, epoch) and of the sizes of the shards. Each place in it is computed by itself, so
reading starts anywhere at once, and no list of the examples is held in memory.

- The records are cut into blocks of neighbours, which are near each other in the file: a remote store sends them in
  one answer.
- The blocks of the whole split are put into a random order by a Feistel network, which is a permutation that can be
  computed for one number at a time.
- The stream of records that this gives is cut into pools, and each pool is shuffled.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.manifest import Shard
from tfpipe.data.position import Part

# Changes when the same seed gives another order; checkpoints store it.
ORDER_VERSION = 2
# Neighbours that are read together: 0.9 MB with the default spec, which a remote store sends as fast as it can.
BLOCK = 32
# Examples that are shuffled together: they come from 128 places of the split, and are 113 MB.
POOL = 4096
# Pools whose order is kept; two batches that are read at the same time may lie in different pools.
_KEPT = 4
_ROUNDS = 6

Numbers = NDArray[np.int64]


class Share(NamedTuple):
    """A run of records in a shard: `take` of them, after the first `skip`. `shard` is its index in the split."""

    shard: int
    skip: int
    take: int


class Places(NamedTuple):
    """Where examples are: indices of shards in the split `[n]`, and of records in these shards `[n]`."""

    shards: Numbers
    records: Numbers


def shares_of(shards: Sequence[Shard]) -> list[Share]:
    """Returns all records of a split's shards."""
    return [Share(index, 0, shard.examples) for index, shard in enumerate(shards)]


def own_shares(shards: Sequence[Shard], part: Part, *, seed: int | None, epoch: int) -> list[Share]:
    """Divides the records of an epoch among workers that share by file, and returns one worker's.

    The records are cut into runs of equal length, one per worker, so that each
    worker reads whole shards except at the two ends of its run. With a seed,
    the shards are ordered by (seed, epoch) before the cut.
    """
    shares = shares_of(shards)
    if seed is not None:
        shares = sorted(shares, key=lambda share: _key(seed, epoch, shards[share.shard].name))
    each = sum(share.take for share in shares) // part.total * part.replicas
    first, last = part.worker * each, (part.worker + 1) * each
    own, start = [], 0
    for share in shares:
        low, high = max(first, start), min(last, start + share.take)
        if low < high:
            own.append(Share(share.shard, low - start, high - low))
        start += share.take
    return own


class Order:
    """The order of one epoch: in the order of the shares, or shuffled by (seed, epoch) if there is a seed.

    Attributes:
        total: examples in the epoch.
    """

    def __init__(self, shares: Sequence[Share], *, seed: int | None, epoch: int) -> None:
        table = np.array([share for share in shares if share.take], np.int64).reshape(-1, 3)
        self._shards, self._skips, takes = table[:, 0], table[:, 1], table[:, 2]
        self.total = int(takes.sum())
        self._seed, self._epoch = seed, epoch
        blocks = -(-takes // BLOCK)
        # Number of the first block of each share, and at the end the number of blocks.
        self._first = np.concatenate([[0], np.cumsum(blocks)])
        self._blocks = int(self._first[-1])
        # Only the last block of a share may be short. Where these blocks come, every later record moves up.
        lasts, missing = self._first[1:] - 1, blocks * BLOCK - takes
        places = self._place(lasts[missing > 0])
        by_place = np.argsort(places)
        self._short = places[by_place]
        self._missing = np.concatenate([[0], np.cumsum(missing[missing > 0][by_place])])
        self._short_starts = self._short * BLOCK - self._missing[:-1]
        # A batch is a small part of a pool, so the work of finding its places is shared with other batches.
        self._pool = functools.lru_cache(_KEPT)(self._shuffled_pool)

    def places(self, numbers: Numbers) -> Places:
        """Returns where the examples are that come at these numbers of the epoch, `[n]`, from 0 to `total` - 1."""
        pools = numbers // POOL
        shards, records = np.empty_like(numbers), np.empty_like(numbers)
        for pool in np.unique(pools):
            inside = pools == pool
            found, within = self._pool(int(pool)), numbers[inside] - pool * POOL
            shards[inside], records[inside] = found.shards[within], found.records[within]
        return Places(shards, records)

    def pool(self, pool: int) -> Places:
        """Returns where the records of a pool are, in the order of the stream, in which blocks are whole."""
        return self._in_stream(np.arange(pool * POOL, min((pool + 1) * POOL, self.total)))

    def within(self, pool: int) -> Numbers:
        """Returns the order of a pool's examples, as indices into `pool`."""
        size = min(POOL, self.total - pool * POOL)
        if self._seed is None:
            return np.arange(size)
        random = _mixed(np.arange(size, dtype=np.uint64) + np.uint64(_key(self._seed, self._epoch, "pool", pool)))
        return np.argsort(random, kind="stable")

    def _in_stream(self, numbers: Numbers) -> Places:
        """Returns where the records are at these numbers of the stream of blocks."""
        moved = self._missing[np.searchsorted(self._short_starts, numbers, "right")]
        places = (numbers + moved) // BLOCK
        starts = places * BLOCK - self._missing[np.searchsorted(self._short, places, "left")]
        blocks = self._block(places)
        shares = np.searchsorted(self._first, blocks, "right") - 1
        records = self._skips[shares] + (blocks - self._first[shares]) * BLOCK + numbers - starts
        return Places(self._shards[shares], records)

    def _shuffled_pool(self, pool: int) -> Places:
        stream, order = self.pool(pool), self.within(pool)
        return Places(stream.shards[order], stream.records[order])

    def _block(self, places: Numbers) -> Numbers:
        """Returns the blocks that come at these places."""
        return self._permuted(places, range(_ROUNDS))

    def _place(self, blocks: Numbers) -> Numbers:
        """Returns the places at which these blocks come: the inverse of `_block`."""
        return self._permuted(blocks, range(_ROUNDS - 1, -1, -1))

    def _permuted(self, numbers: Numbers, rounds: range) -> Numbers:
        """Applies a Feistel network to numbers below the number of blocks, again while the result is not below it."""
        if self._seed is None:
            return numbers
        half = np.uint64(max(1, (self._blocks - 1).bit_length() + 1 >> 1))
        mask = (np.uint64(1) << half) - np.uint64(1)
        keys = [np.uint64(_key(self._seed, self._epoch, "blocks", number)) for number in rounds]
        found = numbers.astype(np.uint64)
        outside = np.arange(len(found))
        # A round swaps the halves after it has changed one. Backwards, the halves are swapped before and after.
        backwards = rounds.step < 0
        while len(outside):
            value = found[outside]
            left, right = value >> half, value & mask
            if backwards:
                left, right = right, left
            for key in keys:
                left, right = right, left ^ (_mixed(right + key) & mask)
            if backwards:
                left, right = right, left
            found[outside] = (left << half) | right
            outside = outside[found[outside] >= self._blocks]
        return found.astype(np.int64)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns a pseudo-random 64-bit number for each number (the finaliser of SplitMix64, Steele et al., 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _key(*parts: object) -> int:
    """Returns 63 bits that are the same on every machine; those of different `parts` are unrelated."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
