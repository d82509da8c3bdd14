"""How long the rest of a training will take, said once, from its first steps. Does not load TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Callable

# The first steps are not measured, because TensorFlow compiles the step in them.
_SKIPPED_STEPS = 5
# Measured until both are reached: steps, and seconds.
_MEASURED_STEPS, _MEASURED_S = 20, 5.0
# Shorter than this, the progress line says enough.
_WORTH_A_LINE_S = 30.0


class TimeLeft:
    """Measures the first steps of a process.

    Args:
        total: steps of the whole training.
        clock: gives the time in s.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._seen = 0
        self._started: float | None = None
        self._said = False

    def after_step(self, done: int) -> str:
        """Counts a finished step; returns the sentence once, when enough is measured, else an empty text.

        Args:
            done: finished steps of the whole training.
        """
        self._seen += 1
        if self._said or self._seen < _SKIPPED_STEPS:
            return ""
        if self._started is None:
            self._started = self._clock()
            return ""
        steps, seconds = self._seen - _SKIPPED_STEPS, self._clock() - self._started
        if steps < _MEASURED_STEPS or seconds < _MEASURED_S:
            return ""
        self._said = True
        left = seconds / steps * (self._total - done)
        if left < _WORTH_A_LINE_S:
            return ""
        return f"about {duration(left)} left for these epochs, measured over {steps} steps; validation comes on top"


def duration(seconds: float) -> str:
    """Returns a time in words, such as `40 s`, `4 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
