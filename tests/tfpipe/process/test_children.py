"""Child processes: their environment, and that they die with their parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tfpipe.process import children


def test_a_child_imports_this_package_and_not_what_lies_in_its_folder(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    code = "import json, tfpipe; print(tfpipe.__file__)"
    done = subprocess.run(
        children.python(["-c", code]), cwd=tmp_path, env=children.environment(), capture_output=True, check=True
    )
    assert Path(os.fsdecode(done.stdout.strip())) == Path(children.__file__).parents[1] / "__init__.py"


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_dies_with_its_parent(tmp_path):
    grandchild = children.python(["-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"])
    parent = f"import subprocess, os; c = subprocess.Popen({grandchild!r}); os.read(0, 1); os._exit(1)"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.stdin.write("x")
        process.stdin.close()
        process.wait()
    end = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
