"""Problems of the latent: a collapsed one, few active dimensions, and none."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_tools import train_config

from tfpipe.training import latent_health
from tfpipe.training.loop import train
from tfpipe.training.run_folder import Run


def rows(**figures: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, **figures} for epoch in (1, 2, 3)]


def test_latent_that_works_has_no_problem(trained: Run) -> None:
    assert trained.history[-1]["val_active_units"] == 4
    assert trained.warnings == ()


def test_few_active_dimensions_are_reported_by_the_figures_of_validation() -> None:
    history = rows(active_units=9, kl=30.0, val_active_units=2, val_kl=4.0)
    found = latent_health.warnings(history, preset="sequence", latent=16)
    assert "only 2 of 16 latent dimensions are active after 3 epochs (KL 4.00 nats)" in found["few"]
    recovered = [*history, {**history[-1], "epoch": 4, "val_active_units": 12}]
    assert latent_health.warnings(recovered, preset="sequence", latent=16) == {}


def test_nothing_is_reported_before_the_third_epoch() -> None:
    assert latent_health.warnings(rows(active_units=0, kl=0.0)[:2], preset="sequence", latent=16) == {}


def test_collapsed_latent_is_reported_with_a_fix_for_the_preset() -> None:
    history = rows(active_units=0, kl=-1e-9)
    (notebook,) = latent_health.warnings(history, preset="notebook", latent=16).values()
    assert notebook.startswith("the latent has collapsed: KL 0.000 nats, 0 of 16 dimensions active after 3 epochs")
    assert "--preset sequence" in notebook
    (other,) = latent_health.warnings(history, preset="sequence", latent=16).values()
    assert "a smaller --learning-rate" in other


@pytest.mark.slow
def test_notebook_preset_collapses_and_training_prints_it_twice(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"preset": "notebook", "average": 0.0, "keep_every": 0, "latent": 16, "augment": None}
    run = train(train_config(small, tmp_path / "run", epochs=10, batch_size=4, learning_rate=3e-3, **settings))
    assert run.history[-1]["val_active_units"] == 0
    (sentence,) = run.warnings
    # Once when it is found, and once at the end.
    said = [line for line in capsys.readouterr().err.splitlines() if "has collapsed" in line]
    assert len(said) == 2
    assert said[1] == f"train: {sentence}"
