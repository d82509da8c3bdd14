"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows how much of the work is done; use it in a `with` block.

    Args:
        what: one or two words before the count, such as `train`.
        total: units to do; None if unknown.
        unit: name of one unit, such as `example`.
        done: units that are already done, for a job that is resumed.
        quiet: show nothing.
    """

    def __init__(
        self, what: str, *, total: int | None = None, unit: str = "it", done: int = 0, quiet: bool = False
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done, self._first = done, done
        self._started = self._last_line = time.monotonic()
        self._quiet = quiet
        self._notes = ""
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, file=sys.stderr)

    def update(self, count: int = 1, **notes: object) -> None:
        """Adds finished units, and replaces the notes that are shown after the count."""
        self._done += count
        self._notes = " ".join(f"{name}={value}" for name, value in notes.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._notes, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line()

    def set_done(self, done: int, **notes: object) -> None:
        """Sets the number of finished units, and replaces the notes; see `update`."""
        self.update(done - self._done, **notes)

    @property
    def done(self) -> int:
        """Units finished so far."""
        return self._done

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    def _line(self) -> None:
        if self._quiet:
            return
        self._last_line = time.monotonic()
        elapsed = max(1e-9, self._last_line - self._started)
        rate = (self._done - self._first) / elapsed
        of_total = f"/{self._total}" if self._total is not None else ""
        left = f", {(self._total - self._done) / rate:.0f} s left" if self._total and rate > 0 else ""
        notes = f"  {self._notes}" if self._notes else ""
        text = f"{self._what}: {self._done}{of_total} {self._unit} ({rate:.1f}/s{left}){notes}"
        print(text, file=sys.stderr, flush=True)
