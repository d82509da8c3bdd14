"""Sentences on how long a training will take: an estimate at first, a measurement later. Does not load TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# The first steps are not measured, because TensorFlow compiles the step in them.
_SKIPPED_STEPS = 5
# Measured until both are reached: steps, and seconds.
_MEASURED_STEPS, _MEASURED_S = 20, 5.0
# Shorter than this, the progress line says enough.
_WORTH_A_LINE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long the parts of a training are estimated to take, in s. `tfpipe.training.forecast` makes the estimate.

    Attributes:
        step_s: one step of the autoencoder.
        validation_s: one validation, which follows each epoch.
        prior_s: the whole training of the prior; 0 without one.
    """

    step_s: float
    validation_s: float
    prior_s: float


class TimeLeft:
    """Makes a sentence of an estimate before the first step, and another one once the first steps are measured.

    Args:
        epochs: epochs of the whole training.
        steps: steps of an epoch.
        clock: gives the time in s.
    """

    def __init__(self, *, epochs: int, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._epochs, self._steps, self._clock = epochs, steps, clock
        self._forecast = Forecast(step_s=0.0, validation_s=0.0, prior_s=0.0)
        self._seen = 0
        self._started: float | None = None
        self._said = False

    def before_steps(self, forecast: Forecast, *, done: int) -> str:
        """Returns a sentence with the estimated time; an empty text if it is short.

        Args:
            forecast: estimated times.
            done: finished steps of the whole training.
        """
        self._forecast = forecast
        return self._sentence(forecast.step_s, done=done, how="estimated from one batch")

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
        return self._sentence(seconds / steps, done=done, how=f"measured over {steps} steps")

    def _sentence(self, step_s: float, *, done: int, how: str) -> str:
        """Returns the sentence. Validation and prior keep their estimates, whatever a step of the autoencoder takes.

        Measured steps of a small dataset include pauses between epochs, which the prior does not have. Scaled by such
        steps, its estimate became worse (said 93 s, estimated 48 s, took 60 s).
        """
        left = self._epochs * self._steps - done
        first = left * step_s + self._forecast.validation_s * left / max(1, self._steps)
        prior = self._forecast.prior_s
        if first + prior < _WORTH_A_LINE_S:
            return ""
        parts = f"{duration(first)} for the autoencoder and {duration(prior)} for the prior"
        return f"about {duration(first + prior)} left" + (f", {parts}" if prior else "") + f" ({how})"


def duration(seconds: float) -> str:
    """Returns a time in words, such as `40 s`, `4 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
