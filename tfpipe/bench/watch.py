"""Watches the memory and the CPU time of all processes that a block of code starts."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_EVERY_S = 0.05


class Watch:
    """Measures each process that is started in the `with` block, until shortly before it ends.

    Attributes:
        peaks: the peak memory of each process, bytes, by its number.
        cpu_s: the CPU time of each process, s, by its number.
    """

    def __init__(self) -> None:
        self.peaks: dict[int, int] = {}
        self.cpu_s: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def peak_bytes(self) -> int:
        """The peak memory of the largest process."""
        return max(self.peaks.values(), default=0)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_EVERY_S):
            for number in _descendants(os.getpid()):
                with contextlib.suppress(OSError):
                    self._note(number)

    def _note(self, number: int) -> None:
        folder = Path(f"/proc/{number}")
        # The kernel records the peak of each process.
        if found := _PEAK.search((folder / "status").read_text()):
            self.peaks[number] = max(self.peaks.get(number, 0), int(found[1]) * 1024)
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        self.cpu_s[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descendants(number: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = list(children.get(number, ()))
    while found:
        yield (child := found.pop())
        found += children.get(child, ())
