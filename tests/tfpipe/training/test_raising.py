"""A run whose epochs are raised: what is allowed, what is recorded, and that it continues exactly."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from training_tools import arrays, same, train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import RunError
from tfpipe.files.storage import read_json
from tfpipe.process.progress import Progress
from tfpipe.training.config import TrainConfig
from tfpipe.training.loop import Trainer, train
from tfpipe.training.run_folder import Run, claim, load_run, planned_raises, read_config
from tfpipe.training.stages import finished
from tfpipe.training.state import State
from tfpipe.training.stopping import Interrupted
from tfpipe.training.strategy import make_strategy
from tfpipe.workflow.configs import train_config as config_of


@pytest.fixture
def copied(trained: Run, tmp_path: Path) -> Path:
    """A copy of the finished run of three epochs, which a test may change."""
    return Path(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture(scope="module")
def raised(small: Path, trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of three epochs, trained on to five without a pause."""
    folder = Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("raised") / "run"))
    return train(train_config(small, folder, epochs=5), quiet=True)


@pytest.mark.slow
def test_a_raised_run_keeps_its_epochs_and_records_the_raise(raised: Run, trained: Run) -> None:
    assert raised.done
    assert raised.history[:3] == trained.history
    assert [row["epoch"] for row in raised.history] == [1, 2, 3, 4, 5]
    assert raised.config["epochs"] == 5
    assert raised.config["raised"] == [{"epochs": 3, "epoch": 3, "step": 15}]
    # The learning rate is that of a cosine over 25 steps, so it is higher than at the end of the first plan.
    assert raised.history[3]["learning_rate"] > 2 * trained.history[2]["learning_rate"]


@pytest.mark.slow
def test_a_raised_run_that_is_killed_at_once_and_stopped_later_continues_to_the_same_weights(
    small: Path, raised: Run, copied: Path
) -> None:
    config, manifest = train_config(small, copied, epochs=5), load_manifest(small)
    claim(copied, config, manifest, raises=planned_raises(config))  # killed right after config.json was replaced
    assert not load_run(copied).done
    stop, trainer = threading.Event(), Trainer(config, manifest, make_strategy("auto"), raises=planned_raises(config))
    trainer.restore()
    stop.set()
    with Progress("train", quiet=True) as bar, pytest.raises(Interrupted):
        trainer._epoch(stop, bar)
    assert 15 < read_json(copied / "checkpoints" / f"{_latest(copied)}" / "state.json")["step"] < 20
    assert train(config, quiet=True).config["raised"] == raised.config["raised"]
    assert same(arrays(copied), arrays(raised.path))


def test_a_raise_that_is_killed_before_it_is_recorded_can_be_repeated(small: Path, copied: Path) -> None:
    (copied / "DONE").unlink()
    config = train_config(small, copied, epochs=4)
    assert finished(config) is None
    assert planned_raises(config) == [{"epochs": 3, "epoch": 3, "step": 15}]


def test_a_run_without_a_checkpoint_begins_with_the_new_epochs(small: Path, copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    config = train_config(small, copied, epochs=4)
    claim(copied, config, load_manifest(small), raises=planned_raises(config))
    assert (read_config(copied)["epochs"], read_config(copied)["raised"]) == (4, [])


def test_lowered_epochs_are_refused_with_both_numbers(small: Path, trained: Run) -> None:
    with pytest.raises(RunError, match=r"holds a run of 3 epochs, which cannot be lowered to 2; use --epochs 3"):
        finished(train_config(small, trained.path, epochs=2))


def test_the_default_number_of_epochs_raises_nothing(small: Path, trained: Run) -> None:
    config = train_config(small, trained.path, epochs=None)
    assert isinstance(config, TrainConfig)
    with pytest.raises(RunError, match=r"holds a run of 3 epochs, and without --epochs the preset asks for 10"):
        finished(config)
    assert not config_of(small, trained.path, {"roll_s": 0.1}).epochs_given
    assert config_of(small, trained.path, {"roll_s": 0.1, "epochs": 4}).epochs_given


def test_other_settings_are_refused_although_epochs_are_raised(small: Path, trained: Run) -> None:
    with pytest.raises(RunError, match=r"other settings \(seed: 1 there, 8 now\)"):
        finished(train_config(small, trained.path, epochs=9, seed=8))


def test_patience_counts_from_the_raise() -> None:
    state = State(sums=np.ones(1))
    state.history = [{"val_loss": loss} for loss in (1.0, 2.0, 2.0)]
    assert state.epochs_since_best() == 2
    state.raised_at = 3
    assert state.epochs_since_best() == 0
    state.history.append({"val_loss": 3.0})
    assert state.epochs_since_best() == 1


def _latest(run: Path) -> str:
    return str(read_json(run / "checkpoints" / "latest.json")["checkpoint"])
