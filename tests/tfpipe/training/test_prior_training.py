"""Training the prior: the second stage of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from once import make_once
from training_tools import StopsAt, arrays, same, train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import RunError, UsageError
from tfpipe.training.loop import train
from tfpipe.training.prior_folder import PRIOR
from tfpipe.training.prior_training import train_prior
from tfpipe.training.run_folder import load_run
from tfpipe.training.stages import finished, finished_autoencoder
from tfpipe.training.stopping import Interrupted
from tfpipe.training.strategy import make_strategy
from tfpipe.training.trained_model import load_models

SETTINGS: dict[str, Any] = {"latent": "2x4", "epochs": 2, "prior": "flow", "prior_steps": 60}


@pytest.fixture(scope="session")
def with_prior(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a prior. Tests must not change its folder."""
    return make_once(
        tmp_path_factory, "with-prior", lambda folder: train(train_config(small, folder, **SETTINGS), quiet=True)
    )


@pytest.fixture
def copy(with_prior: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_prior, tmp_path / "run"))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / PRIOR / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["val_loss"]) for row in rows(run)]


def test_the_loss_falls_and_the_best_checkpoint_is_that_of_held_out_windows(with_prior: Path, small: Path) -> None:
    figures = losses(with_prior)
    assert [step for step, _, _ in figures] == list(range(3, 61, 3))
    assert figures[-1][1] < 0.97 * figures[0][1]
    best = json.loads((with_prior / PRIOR / "checkpoints" / "best.json").read_text())["checkpoint"]
    assert best == f"step-{min(figures, key=lambda row: row[2])[0]:08d}"
    assert not (with_prior / PRIOR / "latents").exists()
    model = load_models(with_prior)
    assert model.prior is not None
    assert model.prior.original
    drawn = model.draw(range(64), label=0)
    np.testing.assert_allclose(drawn[3], model.draw([3], label=0)[0], rtol=1e-3, atol=1e-4)
    assert np.abs(drawn - model.draw(range(64), label=0, temperature=0.5)).max() > 0.01


def test_a_finished_run_is_not_trained_again(copy: Path, small: Path) -> None:
    config = train_config(small, copy, **SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in (copy / PRIOR).rglob("*")}
    assert finished(config) == load_run(copy)
    train(config, quiet=True)
    train(train_config(small, copy, **{**SETTINGS, "latent": None}), quiet=True)  # the size is that of the run
    assert {path: path.stat().st_mtime_ns for path in (copy / PRIOR).rglob("*")} == before


@pytest.mark.slow
def test_a_stopped_prior_continues_to_the_same_weights(copy: Path, with_prior: Path, small: Path) -> None:
    shutil.rmtree(copy / PRIOR)
    config = train_config(small, copy, **SETTINGS)
    assert finished(config) is None
    assert finished_autoencoder(config) is not None
    strategy, manifest = make_strategy("single"), load_manifest(small)
    for step in (2, 9):
        with pytest.raises(
            Interrupted, match=rf"stopped at step {step} of the prior; run the same command to continue"
        ):
            train_prior(config, manifest, strategy, stop=StopsAt(1 if step == 2 else 6), quiet=True)
    assert (copy / PRIOR / "latents" / "train").is_dir()
    train(config, quiet=True)
    assert same(arrays(copy / PRIOR), arrays(with_prior / PRIOR))
    assert losses(copy) == losses(with_prior)


@pytest.mark.slow
def test_a_run_of_before_gets_a_prior_and_another_autoencoder_another_one(
    copy: Path, with_prior: Path, small: Path
) -> None:
    shutil.rmtree(copy / PRIOR)
    without = load_models(copy)
    assert without.prior is None
    assert np.isclose(without.draw([1, 2]).std(), 1.0, atol=0.5)
    assert finished(train_config(small, copy, **{**SETTINGS, "prior": "none"})) is not None
    # The prior of other weights is not used, and is trained anew.
    shutil.copytree(with_prior / PRIOR, copy / PRIOR)
    stored = json.loads((copy / PRIOR / "config.json").read_text())
    (copy / PRIOR / "config.json").write_text(json.dumps({**stored, "autoencoder": "0" * 64}))
    assert load_models(copy).prior is None
    train(train_config(small, copy, **SETTINGS), quiet=True)
    assert same(arrays(copy / PRIOR), arrays(with_prior / PRIOR))


def test_other_settings_and_a_latent_without_steps_are_refused(copy: Path, small: Path) -> None:
    with pytest.raises(RunError, match=r"steps: 60 there, 30 now.*delete the folder to train the prior anew"):
        train(train_config(small, copy, **{**SETTINGS, "prior_steps": 30}), quiet=True)
    with pytest.raises(UsageError, match="--prior flow needs a latent along time; use --preset sequence"):
        train_config(small, copy, latent=4, prior="flow")
    with pytest.raises(UsageError, match="--prior flow needs a latent along time"):
        train_config(small, copy, preset="compact", latent=None, prior="flow")
    assert train_config(small, copy, latent=4).prior == "none"
    assert train_config(small, copy, latent=None).prior == "flow"


def test_a_damaged_checkpoint_is_named(copy: Path) -> None:
    (state,) = (copy / PRIOR / "checkpoints").glob("step-00000060/state.npz")
    state.write_bytes(state.read_bytes()[:-1] + b"\0\0")
    best = json.loads((copy / PRIOR / "checkpoints" / "best.json").read_text())["checkpoint"]
    if best == "step-00000060":
        with pytest.raises(RunError, match="the checkpoint is damaged"):
            load_models(copy)
    else:
        assert load_models(copy).prior is not None
