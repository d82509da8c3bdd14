"""Shared by the benchmarks: timings taken in turn in one run, and results as ratios of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tfpipe.process.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of a benchmark.

    Attributes:
        name: what was measured.
        value: the measured value.
        unit: unit of the value.
        against: what it is compared with, `baseline` or `limit`; None if there is nothing to compare with.
        ratio: how it compares; above 1 is better than what it is compared with.
    """

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None


# A function to time. It returns the number of examples that it processed. If its set-up must not count, it returns that
# number and the time in s that counts.
Step = Callable[[], int | tuple[int, float]]


def rates(steps: Mapping[str, Step], *, rounds: int, what: str) -> dict[str, list[float]]:
    """Times all steps in turn, round by round: so if the machine slows down, it slows down all of them.

    Args:
        steps: functions to time, by name.
        rounds: number of rounds; one more at the start is not counted.
        what: label of the progress bar.

    Returns:
        For each name, the rates of the rounds in examples/s.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    with Progress(what, total=(rounds + 1) * len(steps), unit="timing") as bar:
        for number in range(rounds + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                did = step()
                count, seconds = did if isinstance(did, tuple) else (did, time.perf_counter() - started)
                if number:
                    found[name].append(count / seconds)
                bar.update()
    return found


def compared(name: str, found: Sequence[float], *, against: str, of: Sequence[float]) -> Result:
    """Returns the median rate, and the median of the ratios to the rates `of`, round by round."""
    ratio = statistics.median(one / other for one, other in zip(found, of, strict=True))
    return Result(name=name, value=statistics.median(found), unit="examples/s", against=against, ratio=ratio)
