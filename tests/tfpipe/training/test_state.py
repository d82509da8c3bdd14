"""The state of a run: figures of an epoch, the best epoch, and exact continuation."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from training_tools import arrays, same, train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.training.loop import Interrupted, Trainer
from tfpipe.training.run_folder import Run
from tfpipe.training.state import State
from tfpipe.training.strategy import make_strategy


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


def test_interrupted_run_continues_to_the_same_weights(small: Path, trained: Run, tmp_path: Path) -> None:
    config = train_config(small, tmp_path / "run", checkpoint_every_s=1e-9)
    stop = threading.Event()
    trainer = Trainer(config, load_manifest(small), make_strategy("single"))
    trainer.restore()
    stop.set()
    # The request arrives with the first step, and all workers read it with the second.
    with pytest.raises(Interrupted, match="epoch 1, step 2"):
        trainer.run(stop, quiet=True)
    # A new trainer has nothing but the run folder, as after a kill.
    resumed = Trainer(config, load_manifest(small), make_strategy("single"))
    resumed.restore()
    assert (resumed.state.epoch, resumed.state.step) == (0, 2)
    resumed.run(threading.Event(), quiet=True)
    saved = arrays(trained.path)
    assert same(saved, arrays(tmp_path / "run"))
    names = ("epoch", "step", "loss", "mse", "kl", "val_loss")
    rows = [[[row[name] for name in names] for row in history] for history in (trained.history, resumed.state.history)]
    assert rows[0] == rows[1]
    decoder = next(name for name in saved if name.startswith("decoder/"))
    assert not np.array_equal(saved[decoder], saved[f"trained_{decoder}"])  # the average is not the weights
