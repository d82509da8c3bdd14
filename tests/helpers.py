"""What several test modules share: running the command line as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(**extra: str) -> dict[str, str]:
    """An environment in which a child process imports this checkout and keeps quiet."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **extra}


def tfpipe(*arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "tfpipe", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(**extra),
        timeout=280,
        check=False,
    )


def last_json(done: subprocess.CompletedProcess[str]) -> dict:
    """Parses the last line of stdout; a failed command shows its own message."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])
