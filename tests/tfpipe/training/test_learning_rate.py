"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest

from tfpipe.training.learning_rate import cosine


def test_cosine_warms_up_to_the_peak_and_decays_to_two_percent() -> None:
    rate = cosine(1.0, total_steps=400)
    assert float(rate(0)) == pytest.approx(0.05)
    assert float(rate(20)) == pytest.approx(1.0)
    assert float(rate(400)) == pytest.approx(0.02)


def test_a_raised_run_moves_from_its_rate_to_the_cosine_of_the_new_plan() -> None:
    first, whole = cosine(1.0, total_steps=400), cosine(1.0, total_steps=800)
    rate = cosine(1.0, total_steps=800, joined=[(400, 400)])
    assert float(rate(400)) == pytest.approx(float(first(400)))
    assert float(rate(410)) == pytest.approx((float(first(400)) + float(whole(410))) / 2)
    assert float(rate(420)) == pytest.approx(float(whole(420)))
    assert float(rate(800)) == pytest.approx(0.02)


def test_a_run_that_is_raised_twice_at_the_same_step_keeps_its_rate_there() -> None:
    once = cosine(1.0, total_steps=800, joined=[(400, 300)])
    twice = cosine(1.0, total_steps=800, joined=[(400, 300), (500, 300)])
    assert float(twice(300)) == pytest.approx(float(once(300)))
    assert float(twice(600)) == pytest.approx(float(once(600)))
