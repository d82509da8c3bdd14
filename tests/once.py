"""Makes an expensive folder once for all pytest-xdist workers of a test session."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that all workers of this session share.

    The first worker that asks for `name` makes the folder and calls `make(folder)` to fill it. The other workers wait
    until it is complete. Tests must not change it.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, complete = shared / name, shared / f"{name}.complete"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a part of it, if another worker failed to make it
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder
