"""Files that are local or at a URL such as `s3://bucket/a.wav` or `gs://bucket/a.wav`, read the same way.

URLs go through Beam's FileSystems, which is imported only for them. Loads no TensorFlow.
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO, cast

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tells whether a path is a URL."""
    return _URL.match(os.fspath(path)) is not None


def open_read(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading at any place.

    Raises:
        OSError: it is missing or out of reach.
    """
    if not is_remote(path):
        return open(path, "rb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return cast(BinaryIO, FileSystems.open(os.fspath(path), compression_type=CompressionTypes.UNCOMPRESSED))


def stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns size in bytes and modification time in ns, which tell that a file changed.

    Raises:
        OSError: it is missing or out of reach.
    """
    if not is_remote(path):
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    from apache_beam.io.filesystems import FileSystems

    found = [entry for match in FileSystems.match([os.fspath(path)]) for entry in match.metadata_list]
    if not found:
        raise FileNotFoundError(2, "no such file", os.fspath(path))
    return found[0].size_in_bytes, round(found[0].last_updated_in_seconds * 1e9)
