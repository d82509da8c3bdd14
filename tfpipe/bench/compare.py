"""What the benchmarks share: results as ratios of timings that one run takes next to each other."""

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
        value: the figure.
        unit: its unit.
        against: `baseline` or `limit`, or None where there is nothing to compare with.
        ratio: above 1 is better than that.
    """

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None


# Something to time: how many things it did, or that and the s which count.
Step = Callable[[], int | tuple[int, float]]


def rates(steps: Mapping[str, Step], *, rounds: int, what: str) -> dict[str, list[float]]:
    """Times all candidates in turn, round by round, so that a machine that slows down slows them all.

    Args:
        steps: by name, what to time; each returns the number of things it did, and the s that
            they took where setting up and tidying up are not to count.
        rounds: how often, after one round that is not counted.
        what: for the progress bar.

    Returns:
        By name, the rate of each round, per s.
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
    """Returns the median rate, and the median of the ratios round by round."""
    ratio = statistics.median(one / other for one, other in zip(found, of, strict=True))
    return Result(name=name, value=statistics.median(found), unit="examples/s", against=against, ratio=ratio)
