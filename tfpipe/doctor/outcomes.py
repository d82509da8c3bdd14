"""Runs the probes in a child process, because a library that aborts or hangs takes its process with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfpipe.doctor import probes

TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one probe ended.

    Attributes:
        ok: whether it worked.
        detail: what it found, or why it failed in one line.
    """

    ok: bool
    detail: Any


def run_probes(names: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> dict[str, Outcome]:
    """Runs probes in a child process. When it dies, a new one goes on with the probes that are left.

    Args:
        names: names in `tfpipe.doctor.probes.PROBES`.
        timeout_s: limit for all probes together, in s.

    Returns:
        An outcome for every name, in order.
    """
    outcomes: dict[str, Outcome] = {}
    deadline = time.monotonic() + timeout_s
    while left := [name for name in names if name not in outcomes]:
        outcomes |= _run_child(left, timeout_s=max(0.0, deadline - time.monotonic()), total_s=timeout_s)
    return {name: outcomes[name] for name in names}


def _run_child(names: list[str], *, timeout_s: float, total_s: float) -> dict[str, Outcome]:
    """Runs probes until all are done or the child ends. Returns an outcome for the first one at least."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", probes.__name__, *names],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
        )
        try:
            status, why = child.wait(timeout_s), ""
        except subprocess.TimeoutExpired:
            child.kill()
            status, why = child.wait(), f"no answer within the {total_s:.0f} s that all probes have together"
        stdout.seek(0)
        stderr.seek(0)
        said = [json.loads(line) for line in stdout.read().splitlines() if line.startswith(b'{"probe"')]
        last_words = stderr.read().decode(errors="replace").strip().splitlines()[-1:]
    outcomes = {
        line["probe"]: Outcome(ok=line["state"] == "works", detail=line["detail"])
        for line in said
        if line["state"] != "started"
    }
    ended = f"the process ended with status {status if status >= 0 else 128 - status}"
    unfinished = [name for name in names if name not in outcomes]
    if unfinished:
        outcomes[unfinished[0]] = Outcome(ok=False, detail=why or " ".join([f"{ended}:", *last_words])[:240])
    elif status and outcomes[names[-1]].ok:
        detail = f"{outcomes[names[-1]].detail} ({ended} afterwards)"
        outcomes[names[-1]] = Outcome(ok=True, detail=detail)
    return outcomes
