"""Reads and checks the records of a batch in Python, as the compiled `tfpipe.data._records` does. No TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.offsets import FOOTER, HEADER
from tfpipe.data.records import masked_crc, record_header

# Fills memory with the bytes of the record of a row; returns how many there were.
Fill = Callable[[int, NDArray[np.uint8]], int]


def read_into_rows(
    fill: Fill,
    sizes: Sequence[int],
    mel_begins: Sequence[int],
    *,
    mel: NDArray[np.uint8],
    rest: NDArray[np.uint8],
) -> list[bool]:
    """Reads TFRecords, and checks their lengths and both checksums.

    Args:
        fill: reads a record.
        sizes: bytes of the records in the files.
        mel_begins: where the mel begins in each record's data.
        mel: `[records, bytes]`, gets the mels.
        rest: `[records, bytes]`, gets the bytes before and after the mel.

    Returns:
        Which records are whole. The rows of the others are undefined.
    """
    memory, width = np.empty(max(sizes, default=0), np.uint8), mel.shape[1]
    whole = [False] * len(sizes)
    for row, (size, begin) in enumerate(zip(sizes, mel_begins, strict=True)):
        record = memory[:size]
        data = record[HEADER : size - FOOTER]
        if len(data) < begin + width or len(data) - width > rest.shape[1] or fill(row, record) < size:
            continue
        is_header = record[:HEADER].tobytes() == record_header(len(data))
        if is_header and masked_crc(data) == record[size - FOOTER :].tobytes():
            end = begin + width
            mel[row], rest[row, :begin], rest[row, begin : len(data) - width] = (
                data[begin:end],
                data[:begin],
                data[end:],
            )
            whole[row] = True
    return whole
