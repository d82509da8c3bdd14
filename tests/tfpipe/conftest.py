"""The programs of a Slurm cluster whose nodes are all this machine."""

import os
from pathlib import Path

import pytest

_SCONTROL = """#!/bin/sh
[ "$1 $2" = "show hostnames" ] || exit 1
case $3 in
  "gpu[01-03]") printf "gpu01\\ngpu02\\ngpu03\\n" ;;
  here) echo 127.0.0.1 ;;
  *) exit 1 ;;
esac
"""
# Two tasks, as srun starts them; options are left to the real one.
_SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=here SLURM_STEP_TASKS_PER_NODE=2
SLURM_PROCID=1 "$@" >/dev/null &
SLURM_PROCID=0 "$@" && wait -n
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `scontrol` and `srun` first in PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("scontrol", _SCONTROL), ("srun", _SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
