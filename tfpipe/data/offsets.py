"""Where the records of a shard are in its file. Does not load TensorFlow.

A shard of the preprocessing job holds every variant of each of its windows, in the order of the variants' names. The
size of a record depends on the name of its variant alone, so the sizes repeat from window to window, and the manifest
is enough to compute every offset: no index is stored. A reader checks the header of each record that it reads. If
another program wrote the shard and its sizes do not repeat, one pass over its headers finds the offsets.
"""

from __future__ import annotations

import functools
import itertools
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.manifest import Shard
from tfpipe.data.records import Example, encode_example, masked_crc
from tfpipe.errors import DatasetError
from tfpipe.files.remote import is_remote, open_read, stamp
from tfpipe.spec import FeatureSpec

# Bytes of a record's length with its checksum, and of the checksum of its data.
HEADER, FOOTER = 12, 4
# An index of this many labels or more takes two bytes in a record.
_LABELS = 128


class Period(NamedTuple):
    """Sizes that repeat: `starts` are the offsets of the records of the first period and of the next period."""

    starts: tuple[int, ...]

    def at(self, record: int) -> int:
        """Returns the offset of a record in bytes; for the number of records, the end of the last one."""
        period, within = divmod(record, len(self.starts) - 1)
        return period * self.starts[-1] + self.starts[within]

    def at_all(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the offsets of records `[n]`."""
        periods, within = np.divmod(records, len(self.starts) - 1)
        starts: NDArray[np.int64] = periods * self.starts[-1] + np.array(self.starts, np.int64)[within]
        return starts


class Table(NamedTuple):
    """One offset for each record, and the end of the last one: `starts` `[n + 1]` int64."""

    starts: NDArray[np.int64]

    def at(self, record: int) -> int:
        """Returns the offset of a record in bytes; for the number of records, the end of the last one."""
        return int(self.starts[record])

    def at_all(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the offsets of records `[n]`."""
        return self.starts[records]


def computed(shard: Shard, spec: FeatureSpec, *, labels: int) -> Period | None:
    """Returns the offsets that follow from the manifest, None if they do not.

    Args:
        shard: an entry of the manifest; its number of examples may have been lowered because of damage.
        spec: the feature spec of the dataset.
        labels: number of labels of the dataset.
    """
    counts = set(shard.variants.values())
    if len(counts) == 1 and labels <= _LABELS:
        sizes = [_size(name, spec) for name in sorted(shard.variants, key=str.encode)]
        if sum(sizes) * counts.pop() == shard.bytes:
            return Period((0, *itertools.accumulate(sizes)))
    if shard.examples and shard.bytes % shard.examples == 0:
        return Period((0, shard.bytes // shard.examples))
    return None


def scanned(path: str, examples: int) -> Table:
    """Finds the offsets of a shard's first records by reading their headers; a remote shard is read whole.

    Raises:
        DatasetError: a header is damaged, or the shard has fewer records.
        OSError: the file cannot be read.
    """
    size, starts = stamp(path)[0], [0]
    with open_read(path) as file:
        for _ in range(examples):
            header = file.read(HEADER)
            if len(header) < HEADER or masked_crc(header[:8]) != header[8:]:
                raise DatasetError(f"{path}: damaged record header at byte {starts[-1]}")
            (length,) = struct.unpack_from("<Q", header)
            starts.append(starts[-1] + HEADER + length + FOOTER)
            if starts[-1] > size:
                raise DatasetError(f"{path}: breaks off inside the record at byte {starts[-2]}")
            if is_remote(path):
                file.read(length + FOOTER)
            else:
                file.seek(starts[-1])
    return Table(np.array(starts, np.int64))


@functools.lru_cache(1024)
def _size(variant: str, spec: FeatureSpec) -> int:
    """Returns the bytes that a record of this variant takes in a shard."""
    mel = np.zeros(spec.mel_shape, np.uint8)
    key = f"{'0' * 16}/{'0' * 12}/{variant}"
    example = Example(mel=mel, ref_db=0.0, label=0, track="0" * 64, start_s=0.0, variant=variant, key=key)
    return HEADER + len(encode_example(example)) + FOOTER
