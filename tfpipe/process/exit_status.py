"""How the command's process ends where libraries would spoil its exit status.

TensorFlow's s3:// file system aborts in the interpreter's last moments, and a
read from a data service that is gone is never given up.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_at_once = False


def at_once() -> None:
    """Makes `leave` end this process without tidying up."""
    global _at_once
    _at_once = True


def leave(status: int) -> NoReturn:
    """Ends the process with an exit status, and all of its output written."""
    if not _at_once:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # full disk, nobody reading, closed
            status = status or 1
    os._exit(status)
