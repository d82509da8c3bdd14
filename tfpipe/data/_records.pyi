"""The compiled module of `tfpipe/data/native`: reads and checks the records of a batch without Python's lock."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["read"]

def read(
    files: Sequence[int],
    begins: Sequence[int],
    sizes: Sequence[int],
    mel_begins: Sequence[int],
    mel: NDArray[np.uint8],
    rest: NDArray[np.uint8],
) -> list[bool]:
    """Reads TFRecords, and checks their lengths and both checksums.

    Args:
        files: numbers of open files, one for each record.
        begins: where the records begin.
        sizes: bytes of the records in the files.
        mel_begins: where the mel begins in each record's data.
        mel: `[records, bytes]`, gets the mels.
        rest: `[records, bytes]`, gets the bytes before and after the mel; what is left of a row stays as it is.

    Returns:
        Which records are whole. The rows of the others are undefined.

    Raises:
        OSError: a file cannot be read.
        ValueError: the arrays cannot be written, or do not have a row for each record.
    """
