"""Reads small files that a person names, such as configurations, without waiting for a pipe that nobody writes to."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path

# A pipe, such as one of `<(...)` in a shell, must have sent all it has within this time, in s.
_PATIENCE_S = 5.0


def read_small_file(path: Path, *, most: int) -> tuple[bytes, int]:
    """Returns up to `most` bytes of a file or pipe, and the file's mode (`stat.st_mode`).

    Raises:
        OSError: it cannot be read; ETIMEDOUT if it is a pipe that is not closed within some seconds.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        data = bytearray()
        deadline = time.monotonic() + _PATIENCE_S
        is_pipe = stat.S_ISFIFO(mode)
        while len(data) < most:
            # A plain read of a pipe would wait for its writer without an end.
            if is_pipe and not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise OSError(errno.ETIMEDOUT, "it is a pipe to which nothing is written", str(path))
            part = os.read(descriptor, most - len(data))
            if not part:
                break
            data += part
        return bytes(data), mode
    finally:
        os.close(descriptor)
