"""Ends a command's process with the right exit status, even if a library would change it or keep the process alive.

TensorFlow's s3:// file system aborts while the interpreter shuts down, and a read
from a data service that is gone never returns. In such cases the process must end
without cleaning up.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_cleanup = True


def skip_cleanup() -> None:
    """Makes `end_process` end this process without cleaning up."""
    global _cleanup
    _cleanup = False


def end_process(status: int) -> NoReturn:
    """Ends the process with an exit status, after all of its output is written."""
    if _cleanup:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the disk is full, the reader is gone, or the stream is closed
            status = status or 1
    os._exit(status)
