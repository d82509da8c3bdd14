"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere.

A line fits into the terminal, and into 80 columns elsewhere: the figures at its end are left out first.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tfpipe.process.terminal import has_colour

_SECONDS_BETWEEN_LINES = 10.0
_COLUMNS, _LEAST_BAR = 80, 20
# So many notes are more important than the rate.
_BEFORE_RATE = 2


# tqdm has a type parameter for checkers only.
if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm


class _Bar(_Tqdm):
    """A bar of at least `_LEAST_BAR` columns: what has no place beside it is left out, the least important first."""

    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the line as tqdm shows it."""
        columns = self.format_dict["ncols"] or _COLUMNS
        facts = {**self.format_dict, "ncols": columns}
        for text in self._texts():
            without = self.format_meter(**{**facts, "bar_format": text.replace("{bar}", "")})
            if len(without) + _LEAST_BAR <= columns:
                break
        return str(self.format_meter(**{**facts, "bar_format": text}))

    def _texts(self) -> Iterator[str]:
        """Yields what the line may hold, in the format of tqdm, the fullest first."""
        start = "{desc}: {percentage:3.0f}%|{bar}|" if self.total else "{desc}: |{bar}|"
        count = "{n_fmt}/{total_fmt}" if self.total else "{n_fmt} {unit}"
        clock = "[{elapsed}<{remaining}]" if self.total else "[{elapsed}]"
        notes = [note.replace("{", "{{").replace("}", "}}") for note in self.notes]
        figures = [start, count, clock, *notes[:_BEFORE_RATE], "{rate_fmt}", *notes[_BEFORE_RATE:]]
        for end in range(len(figures), 0, -1):
            yield " ".join(figures[:end])


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
        self._notes: tuple[str, ...] = ()
        self._bar: _Bar | None = None
        if sys.stderr.isatty() and not quiet:
            colour = "green" if has_colour(sys.stderr) else None
            self._bar = _Bar(
                total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, colour=colour, file=sys.stderr
            )

    def update(self, count: int = 1, **notes: object) -> None:
        """Adds finished units, and replaces the notes that are shown after the count.

        Args:
            count: units.
            **notes: figures by name, the most important first: a line has as many of them as fit.
        """
        self._done += count
        self._notes = tuple(f"{name}={value}" for name, value in notes.items())
        if self._bar is not None:
            self._bar.notes = self._notes
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
        """Says where the work goes on, if a part of it was done before."""
        if self._first and self._total and self._first < self._total:
            self.message(f"{self._what}: going on from {self._unit} {self._first} of {self._total}")
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
        text = f"{self._what}: {self._done}{of_total} {self._unit} ({rate:.1f}/s{left})"
        for place, note in enumerate(self._notes):
            longer = f"{text} {' ' if place == 0 else ''}{note}"
            if len(longer) > _COLUMNS:
                break
            text = longer
        print(text, file=sys.stderr, flush=True)


class Steps:
    """Says each step of work without a bar when it begins, and its time when it ends; use it in a `with` block.

    Example:
        `with Steps("export") as step: step("writing the model"); ...; step("reading it back"); ...`

    Args:
        what: one or two words before each line, such as `export`.
        quiet: say nothing.
    """

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what, self._quiet = what, quiet
        self._step, self._began = "", 0.0

    def __call__(self, step: str) -> None:
        """Ends the step before, and begins one."""
        self._end()
        self._step, self._began = step.removesuffix(" ..."), time.monotonic()
        self._say(f"{self._step} ...")

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()

    def _end(self) -> None:
        if self._step:
            self._say(f"{self._step}: {time.monotonic() - self._began:.1f} s")

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(f"{self._what}: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def timed(what: str, step: str, *, quiet: bool = False) -> Iterator[None]:
    """Says when the block begins, and how long it took; see `Steps`."""
    with Steps(what, quiet=quiet) as steps:
        steps(step)
        yield


def loading_tensorflow(what: str, *, quiet: bool = False) -> contextlib.AbstractContextManager[None]:
    """Says how long the block took, which imports TensorFlow; nothing if that was imported before.

    Args:
        what: one or two words before the line, such as `train`.
        quiet: say nothing.
    """
    return timed(what, "loading TensorFlow", quiet=quiet or "tensorflow" in sys.modules)
