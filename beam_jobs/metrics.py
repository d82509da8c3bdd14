"""Counts what a job's steps do and how long they take, for Beam's metrics, the progress bar and the final profile.

Loads no Beam; the pipeline passes in the function that updates Beam's metrics.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_TIME = "us:"
_SKIPPED = "skipped:"
# Seconds between two updates of the counts that others see.
_FLUSH_S = 0.2
_STEPS = {
    "hash": "hashing files",
    "scan": "decoding files",
    "copy": "copying examples made before",
    "decode": "decoding windows again",
    "features": "variants and features",
    "write": "encoding and writing",
}


class Meter:
    """Counts and times the work on one element of the pipeline; use it in a `with` block.

    Args:
        folder: where the command reads the counts. A worker on another machine does not have it and writes nothing.
        on_count: is called with each name and number at every update.
    """

    def __init__(self, folder: str = "", on_count: Callable[[str, int], None] = lambda name, number: None) -> None:
        self._folder = Path(folder) if folder and os.path.isdir(folder) else None
        self._on_count = on_count
        self._counts: Counter[str] = Counter()
        self._flushed = time.monotonic()
        self._steps: list[str] = []
        self._since = 0

    def count(self, name: str, number: int = 1) -> None:
        """Adds to a counter."""
        self._counts[name] += number
        if time.monotonic() - self._flushed > _FLUSH_S:
            self._flush()

    def skip(self, code: str, number: int = 1) -> None:
        """Counts skipped files by their reason code."""
        if number:
            self.count(f"{_SKIPPED}{code}", number)

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the time of the block to a step; the time of an inner step does not count for the outer one."""
        self._lap()
        self._steps.append(step)
        try:
            yield
        finally:
            self._lap()
            self._steps.pop()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def _lap(self) -> None:
        now = time.perf_counter_ns()
        if self._steps:
            self._counts[f"{_TIME}{self._steps[-1]}"] += (now - self._since) // 1000
        self._since = now

    def _flush(self) -> None:
        for name, number in self._counts.items():
            self._on_count(name, number)
        if self._folder is not None:
            text = "".join(f"{name} {number}\n" for name, number in self._counts.items())
            # A full disk must not end the job only because the counts for the progress bar cannot be written.
            with contextlib.suppress(OSError), open(self._folder / str(os.getpid()), "ab") as file:
                file.write(text.encode())
        self._counts.clear()
        self._flushed = time.monotonic()


class Counts:
    """Sums the counts that the workers' meters write into a folder; each call reads only what is new.

    Args:
        folder: the meters' folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._places: Counter[Path] = Counter()
        self._totals: Counter[str] = Counter()

    def read(self) -> Counter[str]:
        """Returns the sums so far."""
        for path in self._folder.iterdir():
            with open(path, "rb") as file:
                file.seek(self._places[path])
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._places[path] += whole
            for line in data[:whole].decode().splitlines():
                name, _, number = line.rpartition(" ")
                self._totals[name] += int(number)
        return self._totals


def skipped(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of skipped files by reason code."""
    return {name.removeprefix(_SKIPPED): counts[name] for name in sorted(counts) if name.startswith(_SKIPPED)}


def profile(counts: Mapping[str, int], seconds: float) -> str:
    """Returns a few lines of text: what was done, how fast, and how the workers spent their time.

    Args:
        counts: counts of the whole job.
        seconds: duration of the job, its start included.
    """
    hours = counts.get("audio_ms", 0) / 3.6e6
    examples, copied = counts.get("examples", 0), counts.get("copied", 0)
    reasons = ", ".join(f"{count} {code}" for code, count in skipped(counts).items())
    lines = [
        f"{counts.get('files', 0)} files ({counts.get('decoded', 0)} decoded now, {reasons or 'none'} skipped), "
        f"{hours:.3g} h of audio, {examples} examples ({examples - copied} computed now) "
        f"in {seconds:.1f} s, {counts.get('start_ms', 0) / 1000:.1f} s of it to start: "
        f"{hours / seconds:.2g} h of audio per s"
    ]
    times = {step: counts.get(f"{_TIME}{step}", 0) / 1e6 for step in _STEPS}
    total = sum(times.values())
    lines += [
        f"  {spent:9.2f} s {spent / total:4.0%}  {_STEPS[step]}" for step, spent in times.items() if spent >= 0.005
    ]
    return "\n".join(lines)
