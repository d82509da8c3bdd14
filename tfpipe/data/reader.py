"""Reads examples at any places of a split, local or at a URL."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tfpipe.data import offsets
from tfpipe.data.fields import Layout, Rows, cut, cut_rest, known_layout, layout_of
from tfpipe.data.manifest import Folder, Manifest
from tfpipe.data.offsets import FOOTER, HEADER
from tfpipe.data.order import BLOCK, Places
from tfpipe.data.record_reading import read_into_rows
from tfpipe.data.records import masked_crc, record_header
from tfpipe.data.shard_files import BLOCKS, Block, OpenFile
from tfpipe.errors import DatasetError
from tfpipe.files.remote import is_remote, join

# Files that a reader holds open.
_OPEN_FILES = 128
# Pools that were asked for lately.
_EXPECTED = 4
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
        self._open = functools.lru_cache(_OPEN_FILES)(OpenFile)
        self._is_remote = is_remote(folder)
        self._expected: deque[tuple[int, int]] = deque(maxlen=_EXPECTED)

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

    def expect(self, pool: tuple[int, int], places: Callable[[], Places]) -> None:
        """Starts to read what will be needed, if the shards are remote and this was not asked for lately.

        Args:
            pool: epoch and number of the pool.
            places: returns where these examples are.
        """
        if self._is_remote and pool not in self._expected:
            self._expected.append(pool)
            found = places()
            firsts = found.records - found.records % BLOCK
            pairs = dict.fromkeys(zip(found.shards.tolist(), firsts.tolist(), strict=True))
            BLOCKS.expect([self._block(shard, first) for shard, first in pairs])

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
            data = b"" if known else self.record(int(places.shards[row]), int(places.records[row]))
            # The record has another length if the sizes were a wrong guess.
            return layout_of(data, self._spec.mel_shape) if len(data) == size - HEADER - FOOTER else known
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
        files = [] if self._is_remote else [self._file(shard) for shard in shards]
        if files and read_compiled is not None:
            numbers = [file.number for file in files]
            return np.array(read_compiled(numbers, starts, sizes.tolist(), mel_begins, mel, rest))

        def fill(row: int, memory: NDArray[np.uint8]) -> int:
            if files:
                return files[row].read_into(memory, starts[row])
            found = np.frombuffer(self._remote(shards[row], records[row]), np.uint8)
            memory[: len(found)] = found[: len(memory)]
            return len(found)

        return np.array(read_into_rows(fill, sizes.tolist(), mel_begins, mel=mel, rest=rest))

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
        found = self._remote(shard, record) if self._is_remote else self._file(shard).read(begin, end)
        data = found[HEADER:-FOOTER]
        whole = (
            len(found) == end - begin
            and found[:HEADER] == record_header(len(data))
            and found[-FOOTER:] == masked_crc(data)
        )
        return data if whole else None

    def _remote(self, shard: int, record: int) -> bytes:
        """Returns the bytes at the place of a record of a remote shard, or those that there are."""
        where, block = self.where(shard), self._block(shard, record)
        return BLOCKS.get(block)[where.at(record) - block.begin : where.at(record + 1) - block.begin]

    def _block(self, shard: int, record: int) -> Block:
        """Returns the block of neighbours that a record of a remote shard is in."""
        where, first, entry = self.where(shard), record - record % BLOCK, self.shards[shard]
        end = where.at(min(first + BLOCK, entry.examples))
        return Block(self.paths[shard], entry.sha256, where.at(first), end)

    def _file(self, shard: int) -> OpenFile:
        return self._open(self.paths[shard])


def _aligned(count: int, width: int) -> NDArray[np.uint8]:
    memory = np.empty(count * width + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count * width].reshape(count, width)
