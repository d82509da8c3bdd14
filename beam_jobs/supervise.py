"""Runs the Beam pipeline in a child process: sends it the job, shows its progress, ends it with this process.

The pipeline has a process of its own because that process can be killed at any
time, together with all its workers. Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, cast

from beam_jobs.metrics import Counts, skipped
from beam_jobs.payload import Job
from tfpipe.errors import TfpipeError
from tfpipe.process import children
from tfpipe.process.progress import Progress

_CHILD = "from beam_jobs.pipeline import main; main()"
# How often the counts are read, in s.
_POLL_S = 0.2
# Seconds that the child gets to cancel its job on a cluster.
_CANCEL_S = 15.0


def run_in_child(job: Job, *, quiet: bool, verbose: bool) -> dict[str, int]:
    """Runs the pipeline in a child process; the child does not outlive this process.

    Args:
        job: the job.
        quiet: show no progress.
        verbose: show Beam's log on stderr.

    Returns:
        What the workers counted.

    Raises:
        TfpipeError: the cause that the child reports, or the likely cause if it died without a report.
    """
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryFile() as report,
        tempfile.TemporaryDirectory(prefix="tfpipe-") as scratch,
    ):
        job = dataclasses.replace(job, counts=f"{scratch}/counts")
        os.mkdir(job.counts)
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=report,
            stderr=None if verbose else log,
            env={**children.environment(), "TMPDIR": scratch},  # Beam does not remove its temporary folders
            start_new_session=True,
        )
        try:
            _send(job, process)
            started_s = _watch(process, job, quiet=quiet)
        finally:
            _end(process)
        outcome = json.loads(_content(report) or "null")
        if outcome is None:
            raise TfpipeError(_explain_death(process.returncode, _content(log)))
    if "error" in outcome:
        raise TfpipeError(outcome["error"])
    return {**outcome["counts"], "start_ms": round(started_s * 1000)}


def _send(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Sends the job. The pipe stays open, because the child ends itself when the pipe closes."""
    with contextlib.suppress(BrokenPipeError):
        stdin = cast(IO[bytes], process.stdin)
        pickle.dump(job, stdin)
        stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and its workers; the closed pipe first tells the child to cancel its job on a cluster."""
    try:
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_CANCEL_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _watch(process: subprocess.Popen[bytes], job: Job, *, quiet: bool) -> float:
    """Shows progress until the child has ended.

    Returns:
        Seconds until the workers began to count.
    """
    started = time.monotonic()

    def is_running() -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
        return process.returncode is None

    counts, total, begun = Counts(job.counts), 0, 0.0
    with Progress("scan", total=job.files, unit="file", quiet=quiet) as bar:
        while running := is_running():
            now = counts.read()
            if not begun and now:
                begun = time.monotonic()
            bar.set_done(now["files"], **_scan_notes(now, begun))
            if total := now["planned"]:
                break
    if running:
        with Progress("write", total=total, unit="example", quiet=quiet) as bar:
            while running:
                running = is_running()
                bar.set_done(counts.read()["examples"])
    return begun - started if begun else 0.0


def _scan_notes(counts: Mapping[str, int], begun: float) -> dict[str, object]:
    """Returns what the progress bar shows beside the number of files."""
    hours = counts["audio_ms"] / 3.6e6
    speed = hours / max(1.0, time.monotonic() - begun)
    notes: dict[str, object] = {"audio": f"{hours:.2f}h", "speed": f"{speed:.2g}h/s"}
    left_out = sum(skipped(counts).values())
    return {**notes, "skipped": left_out} if left_out else notes


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _explain_death(status: int, log: str) -> str:
    """Returns the likely cause if the child ended without a report."""
    if status == -signal.SIGKILL:
        return "the job's process was killed, probably for lack of memory; close other programs and run it again"
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    return f"the job's process ended with status {status} ({last}); --verbose shows Beam's log"
