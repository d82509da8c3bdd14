"""Models that are loaded from a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfpipe.evaluation.evaluate import evaluate
from tfpipe.training.run_folder import Run
from tfpipe.training.trained_model import load_models


def test_loaded_models_are_float32_and_belong_to_the_checkpoint(trained: Run) -> None:
    model = load_models(str(trained.path), which="latest")
    assert {variable.dtype for variable in [*model.encoder.weights, *model.decoder.weights]} == {"float32"}
    assert (model.metadata["epoch"], model.metadata["metrics"]) == (3, trained.history[-1])
    assert trained.load("step-00000010").metadata["epoch"] == 2


def test_loaded_models_have_the_error_that_training_measured(small: Path, trained: Run) -> None:
    result = evaluate(small, trained.path, split="validation", which="step-00000010", draws=0, quiet=True)
    assert result["mse"] == pytest.approx(trained.history[1]["val_mse"], rel=1e-4)
    assert result["baselines"]["pca"]["mse"] < result["baselines"]["mean"]["mse"]
    assert len(result["kl_per_dimension"]) == result["latent"] == 4
