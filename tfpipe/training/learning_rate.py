"""The learning rate as a function of the step (needs TensorFlow)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

# A warm-up lasts at most this many steps, and at most one step in twenty.
_WARM_UP_STEPS, _WARM_UP_SHARE = 100, 20


def cosine(peak: float, *, total_steps: int, joined: Sequence[tuple[int, int]] = ()) -> Any:
    """Returns the schedule `cosine`: it warms up from 5 % of the peak, then decays to 2 % of it.

    A run whose epochs were raised joins the cosine of the new number of steps where it is: within up to 100 steps the
    rate moves from its value there to the new cosine.

    Args:
        peak: largest learning rate.
        total_steps: steps of the whole run.
        joined: for each raise, the steps that were planned before it and the step at which it happened.
    """
    plans = [total for total, _ in joined] + [total_steps]
    rate = _planned(peak, plans[0])
    for (_, at), total in zip(joined, plans[1:], strict=True):
        rate = Joined(_planned(peak, total), at=at, rate=float(rate(at)), steps=_warm_up(total - at))
    return rate


class Joined(keras.optimizers.schedules.LearningRateSchedule):
    """Moves from a constant rate to another schedule linearly.

    Args:
        schedule: the other schedule.
        at: step from which the rate moves.
        rate: the rate until then.
        steps: number of steps that this takes.
    """

    def __init__(self, schedule: Any, *, at: int, rate: float, steps: int) -> None:
        self._schedule, self._at, self._rate, self._steps = schedule, at, rate, steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the rate of a step."""
        share = tf.clip_by_value((tf.cast(step, tf.float32) - self._at) / self._steps, 0.0, 1.0)
        return self._rate + share * (self._schedule(step) - self._rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, as Keras asks of a schedule."""
        return {"schedule": self._schedule, "at": self._at, "rate": self._rate, "steps": self._steps}


def _planned(peak: float, total_steps: int) -> Any:
    total = max(2, total_steps)
    steps = _warm_up(total)
    return keras.optimizers.schedules.CosineDecay(
        peak * 0.05, total - steps, alpha=0.02, warmup_target=peak, warmup_steps=steps
    )


def _warm_up(total: int) -> int:
    return max(1, min(_WARM_UP_STEPS, total // _WARM_UP_SHARE))
