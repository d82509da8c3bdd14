"""Child processes that end with their parent, however it ends, and import what it imports."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Set in the child before it becomes the program: a hook between fork and exec may deadlock beside TensorFlow's threads.
_LIFELINE = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG, Linux; survives the exec
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def python(arguments: Sequence[str]) -> list[str]:
    """Returns the command line that runs Python with `arguments`, killed by the kernel when this process dies."""
    return [sys.executable, "-c", _LIFELINE, *arguments]


def environment() -> dict[str, str]:
    """Returns the environment for a child: this package importable there, a folder's chance files not."""
    variables = {**os.environ, "PYTHONSAFEPATH": "1"}
    root = str(Path(__file__).resolve().parents[2])
    if not root.endswith("-packages"):
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return variables
