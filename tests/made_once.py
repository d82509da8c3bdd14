"""Makes what is costly once for all test processes of a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tfpipe.files.storage import folder_lock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that the first test process that asks for it makes; the other ones wait for it.

    Args:
        factory: gives the session's folder for temporary files.
        name: name of the folder.
        make: makes the folder that it is given, whose parent exists.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process of pytest-xdist has a folder of its own in the session's
    place = base / "made once" / name
    with folder_lock(place, what="test", on_wait=lambda: None):
        if not (place / "done").exists():
            shutil.rmtree(place / "made", ignore_errors=True)
            make(place / "made")
            (place / "done").touch()
    return place / "made"
