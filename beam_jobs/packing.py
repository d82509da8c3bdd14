"""Packs many rows into one element of the pipeline, because each element costs the runner time and memory."""

from __future__ import annotations

import pickle
import zlib
from typing import Any


def pack(rows: Any) -> bytes:
    """Returns rows as compressed bytes."""
    return zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)


def unpack(packed: bytes) -> Any:
    """Returns what `pack` was given."""
    return pickle.loads(zlib.decompress(packed))
