"""Reads parts of shards: open local files, and blocks of remote ones, which all readers of the process share."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.order import BLOCK, POOL

# Requests to a remote store at the same time, and blocks that are held in memory: batches that are read at the same
# time may lie in two pools, and the next pool is read ahead.
_REQUESTS, _HELD = 16, 3 * (POOL // BLOCK + 2)


class OpenFile:
    """An open file, which is closed when nobody refers to it any more.

    Attributes:
        number: the operating system's number of the open file.
    """

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def read(self, begin: int, end: int) -> bytes:
        """Returns the bytes from `begin` to `end`, or those that there are."""
        memory = np.empty(end - begin, np.uint8)
        return memory[: self.read_into(memory, begin)].tobytes()

    def read_into(self, memory: NDArray[np.uint8], begin: int) -> int:
        """Fills memory with the bytes from `begin` on; returns how many there were."""
        got = 0
        while got < len(memory) and (more := os.preadv(self.number, [memory[got:].data], begin + got)):
            got += more
        return got

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # If the file could not be opened, there is no number. `close` is kept here, because at the end of the process
        # the module may be gone before the file.
        if hasattr(self, "number"):
            close(self.number)


class Block(NamedTuple):
    """A part of a remote shard: its URL, the checksum of the whole shard, and the first and last byte of the part."""

    path: str
    sha256: str
    begin: int
    end: int

    def read(self) -> bytes:
        """Reads it.

        Raises:
            OSError: the store cannot be reached.
        """
        import tensorflow as tf

        try:
            with tf.io.gfile.GFile(self.path, "rb") as file:
                file.seek(self.begin)
                return bytes(file.read(self.end - self.begin))
        except tf.errors.OpError as error:
            raise OSError(f"{self.path}: {error.message}") from error


class Blocks:
    """Blocks of remote shards, which are read ahead."""

    def __init__(self) -> None:
        self._lock, self._most = threading.Lock(), _HELD
        self._held: dict[Block, Future[bytes]] = {}

    def get(self, block: Block) -> bytes:
        """Returns the bytes of a block, and waits for them.

        Raises:
            OSError: the store cannot be reached.
        """
        future = self._future(block)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._held.pop(block, None)  # so that the next attempt reads it again
            raise

    def expect(self, blocks: Iterable[Block]) -> None:
        """Starts to read the blocks of a pool."""
        blocks = list(blocks)
        with self._lock:
            self._most = max(self._most, 3 * len(blocks))  # workers that share by file have more blocks in a pool
        for block in blocks:
            self._future(block)

    def _future(self, block: Block) -> Future[bytes]:
        with self._lock:
            future = self._held.pop(block, None) or _requests().submit(block.read)
            self._held[block] = future  # the last one is the newest
            while len(self._held) > self._most:
                del self._held[next(iter(self._held))]
            return future


@functools.cache
def _requests() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="tfpipe-shards")


BLOCKS = Blocks()
