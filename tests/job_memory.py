"""Runs the command line in a process of its own and measures the memory of all processes that it starts."""

import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

from job_tools import spec_options  # noqa: F401 - tests of memory need both

ROOT = Path(__file__).resolve().parents[2]


def run_watched(arguments, *, seconds):
    """Runs `tfpipe ARGUMENTS`; returns exit code, stdout, stderr and the peak memory of each of its processes, bytes.

    The memory is the kernel's high-water mark of each process, read until the process has ended.
    """
    marker = f"TFPIPE_TEST={uuid.uuid4().hex}"
    name, _, value = marker.partition("=")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), name: value}
    peaks: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "tfpipe", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + seconds
        try:
            while process.poll() is None and time.monotonic() < end:
                _note_peaks(marker.encode(), peaks)
                time.sleep(0.1)
        finally:
            if late := process.poll() is None:
                process.terminate()
        out, err = process.communicate()
    assert not late, f"not done after {seconds} s: {err}"
    return process.returncode, out, err, sorted(peaks.values())


def _note_peaks(marker, peaks):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "environ").read_bytes():
                found = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
                peaks[folder.name] = max(peaks.get(folder.name, 0), int(found[1]) * 1024 if found else 0)
        except OSError:
            continue
