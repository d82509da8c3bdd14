"""The sentence on how long training will take."""

from __future__ import annotations

from tfpipe.training.time_left import Forecast, TimeLeft, duration


def said(total: int, *, seconds: float, done: int = 0, forecast: Forecast | None = None) -> list[str]:
    """Returns the sentences of a training of one epoch, each step of which takes `seconds`."""
    now = [0.0]
    left = TimeLeft(epochs=1, steps=total, clock=lambda: now[0])
    sentences = [left.before_steps(forecast, done=done)] if forecast else []
    for step in range(done + 1, total + 1):
        now[0] += 60.0 if step < done + 5 else seconds  # the first steps are compiled
        sentences.append(left.after_step(step))
    return [sentence for sentence in sentences if sentence]


def test_the_time_left_is_said_once_and_without_the_first_steps() -> None:
    assert said(1025, seconds=0.5) == ["about 8 min left (measured over 20 steps)"]
    assert said(1025, seconds=0.5, done=500)[0].startswith("about 4 min left")


def test_an_estimate_comes_first_and_slower_steps_correct_that_of_the_autoencoder() -> None:
    forecast = Forecast(step_s=0.25, validation_s=20.0, prior_s=120.0)
    assert said(1025, seconds=0.5, forecast=forecast) == [
        "about 7 min left, 5 min for the autoencoder and 2 min for the prior (estimated from one batch)",
        "about 11 min left, 9 min for the autoencoder and 2 min for the prior (measured over 20 steps)",
    ]


def test_a_few_seconds_are_measured_and_short_trainings_say_nothing() -> None:
    assert said(10_000, seconds=0.01)[0].startswith("about 95 s left (measured over 50")
    assert said(100, seconds=0.1) == []
    assert said(20, seconds=60.0) == []


def test_durations_are_in_the_unit_that_fits() -> None:
    assert [duration(seconds) for seconds in (40, 250, 9000)] == ["40 s", "4 min", "2.5 h"]
