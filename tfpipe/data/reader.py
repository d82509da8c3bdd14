"""Reads examples at any places of a split, local or at a URL."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tfpipe.data import offsets
from tfpipe.data.fields import Layout, Rows, cut, cut_rest, known_layout, layout_of
from tfpipe.data.manifest import Folder, Manifest
from tfpipe.data.offsets import FOOTER, HEADER
from tfpipe.data.order import BLOCK, Places
from tfpipe.data.record_reading import read_records
from tfpipe.data.records import masked_crc
from tfpipe.errors import DatasetError
from tfpipe.files.remote import is_remote, join

# Files that are held open.
_OPEN_FILES = 128
# Requests to a remote store at the same time, and blocks that are held in memory: two pools of 4 096 examples.
_REQUESTS, _HELD = 16, 256
# TensorFlow uses an array in place, without a copy, if it begins at a multiple of this many bytes.
_ALIGNMENT = 64


try:
    from tfpipe.data._records import read as read_compiled
except ImportError:  # it was not built, because Rust was missing
    read_compiled = None  # type: ignore[assignment]
# Whether several threads can read at the same time.
IS_COMPILED = read_compiled is not None

Where = offsets.Period | offsets.Table


class Reader:
    """Reads the examples of one split. Threads may share it.

    Args:
        folder: dataset folder, local or a URL that TensorFlow can read.
        manifest: its manifest, or the one that `tfpipe.data.damage.salvage` returned.
        split: `train`, `validation` or `test`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, split: str) -> None:
        self.shards = manifest.split_shards(split)
        self.paths = [join(folder, shard.name) for shard in self.shards]
        self._spec, self._labels = manifest.spec, len(manifest.labels)
        self._offsets: dict[int, Where] = {}
        self._open = functools.lru_cache(_OPEN_FILES)(_File)
        self._blocks = _Blocks(self._block) if is_remote(folder) else None

    def rows(self, places: Places) -> Rows:
        """Reads examples, and checks the checksum of each.

        Args:
            places: where they are, `[n]`.

        Raises:
            DatasetError: a record is damaged; the message names the shard.
            OSError: a shard cannot be read.
        """
        count, shape = len(places.shards), self._spec.mel_shape
        begins, sizes = self._extents(places)
        layouts = {size: self._layout(places, sizes, size) for size in np.unique(sizes).tolist()}
        rows = Rows(
            _aligned(count, shape[0] * shape[1]), np.empty(count, np.float32), np.empty(count, np.int64), [b""] * count
        )
        left = np.arange(count)
        if count and None not in layouts.values():
            mel_begins = {size: layout.mel.start for size, layout in layouts.items() if layout}
            rest = np.empty((count, int(sizes.max()) - HEADER - FOOTER - shape[0] * shape[1]), np.uint8)
            is_done = self._read(places, begins, sizes, [mel_begins[size] for size in sizes.tolist()], rows.mel, rest)
            for size, layout in layouts.items():
                numbers = np.flatnonzero(is_done & (sizes == size))
                if layout and len(numbers):
                    is_done[numbers] = cut_rest(rest, numbers, layout, rows)
            left = np.flatnonzero(~is_done)
        for row in left.tolist():
            self._read_alone(int(places.shards[row]), int(places.records[row]), row, rows)
        return rows._replace(mel=rows.mel.reshape(count, *shape, 1))

    def expect(self, places: Callable[[], Places]) -> None:
        """Starts to read what will be needed, if the shards are remote.

        Args:
            places: returns where these examples are.
        """
        if self._blocks is not None:
            self._blocks.expect(places())

    def record(self, shard: int, record: int) -> bytes:
        """Returns one serialised example of a shard, both by index.

        Raises:
            DatasetError: it is damaged.
            OSError: the shard cannot be read.
        """
        expected = self.where(shard)
        data = self._checked(shard, record, expected)
        if data is None and isinstance(expected, offsets.Period):
            # The sizes do not repeat as the manifest lets one expect, or the shard is damaged, which the pass tells.
            found = offsets.scanned(self.paths[shard], self.shards[shard].examples)
            self._offsets[shard] = found
            if self._blocks is not None:
                self._blocks.forget()
            data = self._checked(shard, record, found)
        if data is None:
            raise DatasetError(f"{self.paths[shard]}: damaged record {record} (checksum or length differs)")
        return data

    def where(self, shard: int) -> Where:
        """Returns where the records of a shard are.

        Raises:
            DatasetError: the shard had to be read to find out, and is damaged.
            OSError: it cannot be read.
        """
        if shard not in self._offsets:
            entry = self.shards[shard]
            found = offsets.computed(entry, self._spec, labels=self._labels)
            self._offsets[shard] = found or offsets.scanned(self.paths[shard], entry.examples)
        return self._offsets[shard]

    def _extents(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns where records begin, and how long they are, `[n]` bytes."""
        begins, ends = np.empty(len(places.shards), np.int64), np.empty(len(places.shards), np.int64)
        for shard in np.unique(places.shards).tolist():
            here, where = places.shards == shard, self.where(shard)
            begins[here], ends[here] = where.at_all(places.records[here]), where.at_all(places.records[here] + 1)
        return begins, ends - begins

    def _layout(self, places: Places, sizes: NDArray[np.int64], size: int) -> Layout | None:
        """Returns the layout of the records of a size, which one of them shows; None if they must be parsed."""
        row = int(np.argmax(sizes == size))
        try:
            known = known_layout(size - HEADER - FOOTER, self._spec.mel_shape)
            return known or layout_of(
                self.record(int(places.shards[row]), int(places.records[row])), self._spec.mel_shape
            )
        except DatasetError:
            return None  # the record is read again alone, which tells the damage

    def _read(
        self,
        places: Places,
        begins: NDArray[np.int64],
        sizes: NDArray[np.int64],
        mel_begins: list[int],
        mel: NDArray[np.uint8],
        rest: NDArray[np.uint8],
    ) -> NDArray[np.bool_]:
        """Reads records in parts; returns which of them are whole records with the right checksums."""
        shards, records, starts = places.shards.tolist(), places.records.tolist(), begins.tolist()
        files = [] if self._blocks else [self._open(self.paths[shard]) for shard in shards]
        if files and read_compiled is not None:
            numbers = [file.number for file in files]
            return np.array(read_compiled(numbers, starts, sizes.tolist(), mel_begins, mel, rest))

        def fill(row: int, memory: NDArray[np.uint8]) -> int:
            if files:
                return files[row].read_into(memory, starts[row])
            found = np.frombuffer(self._remote(shards[row], records[row]), np.uint8)
            memory[: len(found)] = found[: len(memory)]
            return len(found)

        return np.array(read_records(fill, sizes.tolist(), mel_begins, mel=mel, rest=rest))

    def _read_alone(self, shard: int, record: int, row: int, rows: Rows) -> None:
        """Reads a record that is not where, or not as, it is expected.

        Raises:
            DatasetError: it is damaged, or no example.
        """
        try:
            fields = cut(self.record(shard, record), self._spec.mel_shape)
        except DatasetError as error:
            text = str(error)
            raise DatasetError(
                text if text.startswith(self.paths[shard]) else f"{self.paths[shard]}: {text}"
            ) from error
        rows.mel[row] = np.frombuffer(fields.mel, np.uint8)
        rows.ref_db[row], rows.label[row], rows.key[row] = fields.ref_db, fields.label, fields.key

    def _checked(self, shard: int, record: int, where: Where) -> bytes | None:
        """Returns a record's data, None if the bytes at its place are not a whole record."""
        begin, end = where.at(record), where.at(record + 1)
        found = self._open(self.paths[shard]).read(begin, end) if self._blocks is None else self._remote(shard, record)
        data = found[HEADER:-FOOTER]
        whole = (
            len(found) == end - begin and found[:HEADER] == _header(len(data)) and found[-FOOTER:] == masked_crc(data)
        )
        return data if whole else None

    def _remote(self, shard: int, record: int) -> bytes:
        """Returns the bytes at the place of a record of a remote shard, or those that there are."""
        if self._blocks is None:
            raise RuntimeError("only remote shards are read in blocks")
        where, first = self.where(shard), record - record % BLOCK
        start = where.at(first)
        return self._blocks.get((shard, first))[where.at(record) - start : where.at(record + 1) - start]

    def _block(self, shard: int, first: int) -> bytes:
        """Reads a block of neighbours from a remote shard."""
        import tensorflow as tf

        where, count = self.where(shard), min(BLOCK, self.shards[shard].examples - first)
        begin, end = where.at(first), where.at(first + count)
        with tf.io.gfile.GFile(self.paths[shard], "rb") as file:
            file.seek(begin)
            return bytes(file.read(end - begin))


class _File:
    """An open file, which is closed when nobody refers to it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def read(self, begin: int, end: int) -> bytes:
        """Returns the bytes from `begin` to `end`, or those that there are."""
        return os.pread(self.number, end - begin, begin)

    def read_into(self, memory: NDArray[np.uint8], begin: int) -> int:
        """Fills memory with the bytes from `begin` on; returns how many there were."""
        return os.preadv(self.number, [memory.data], begin)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # If the file could not be opened, there is no number. `close` is kept here, because at the end of the process
        # the module may be gone before the file.
        if hasattr(self, "number"):
            close(self.number)


class _Blocks:
    """Blocks of remote shards, which are read ahead."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._held: dict[tuple[int, int], Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="tfpipe-shards")

    def get(self, block: tuple[int, int]) -> bytes:
        """Returns a block by its shard and its first record, and waits for it."""
        try:
            return self._future(block).result()
        except BaseException:
            self.forget()  # so that the next attempt reads it again
            raise

    def expect(self, places: Places) -> None:
        """Starts to read the blocks of these examples."""
        firsts = places.records - places.records % BLOCK
        for block in dict.fromkeys(zip(places.shards.tolist(), firsts.tolist(), strict=True)):
            self._future(block)

    def forget(self) -> None:
        """Drops all blocks."""
        with self._lock:
            self._held.clear()

    def _future(self, block: tuple[int, int]) -> Future[bytes]:
        with self._lock:
            future = self._held.pop(block, None) or self._pool.submit(self._read, *block)
            self._held[block] = future  # the last one is the newest
            while len(self._held) > _HELD:
                del self._held[next(iter(self._held))]
            return future


def _aligned(count: int, width: int) -> NDArray[np.uint8]:
    memory = np.empty(count * width + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count * width].reshape(count, width)


@functools.lru_cache(256)
def _header(length: int) -> bytes:
    """Returns the header of a record of this many bytes."""
    plain = length.to_bytes(8, "little")
    return plain + masked_crc(plain)
