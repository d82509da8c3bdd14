"""The state of a run: figures of an epoch, the best epoch, and exact continuation."""

from __future__ import annotations

import numpy as np

from tfpipe.training.state import State, order_notice, values_of


def test_means_weigh_steps_by_their_examples() -> None:
    state = State(sums=np.zeros(3))
    state.add(np.array([1.0, 2.0]), examples=10)
    state.add(np.array([4.0, 5.0]), examples=5)
    np.testing.assert_allclose(state.means, [2.0, 3.0])


def test_best_epoch_and_epochs_since_it() -> None:
    state = State(sums=np.ones(3))
    assert state.epochs_since_best() == 0
    found = [(state.end_epoch({"val_loss": loss}), state.epochs_since_best()) for loss in (3.0, 2.0, 2.5, 2.1)]
    assert found == [(True, 0), (True, 0), (False, 1), (False, 2)]
    assert (state.epoch, state.step, state.best_loss) == (4, 0, 2.0)
    assert not state.sums.any()


def test_without_validation_no_epoch_counts_as_being_without_progress() -> None:
    state = State(sums=np.ones(3))
    assert [state.end_epoch({"loss": loss}) for loss in (1.0, 2.0)] == [True, False]
    assert state.epochs_since_best() == 0


def test_a_checkpoint_inside_an_epoch_of_another_order_is_noticed() -> None:
    state = State(sums=np.ones(3), epoch=2, step=4)
    stored = values_of(state, steps=10, seed=0)
    assert (stored["step"], order_notice(stored)) == (24, "")
    del stored["order"]  # as earlier versions wrote it
    assert "in the rest of epoch 3, some examples come a second time" in order_notice(stored)
    assert order_notice({**stored, "next_step": 0}) == ""
    state.sums[0] = 7.0
    assert stored["sums"][0] == 1.0  # a copy: the run goes on while it is written
