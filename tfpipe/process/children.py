"""Child processes that are killed when their parent dies, and that import the same packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# This runs in the child and then becomes the program. A hook between fork and exec (`preexec_fn`) could deadlock,
# because TensorFlow runs threads in the parent.
_LIFELINE = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG, Linux; survives the exec
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def python(arguments: Sequence[str]) -> list[str]:
    """Returns a command line that runs Python with `arguments`; the kernel kills it when this process dies."""
    return [sys.executable, "-c", _LIFELINE, *arguments]


def environment() -> dict[str, str]:
    """Returns environment variables for a child process.

    The child can import this package, and does not import modules that lie in its working folder by chance.
    """
    variables = {**os.environ, "PYTHONSAFEPATH": "1"}
    root = str(Path(__file__).resolve().parents[2])
    if not root.endswith("-packages"):
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return variables
