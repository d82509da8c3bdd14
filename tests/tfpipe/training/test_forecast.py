"""The estimate of how long a training takes."""

from __future__ import annotations

import time
from pathlib import Path

from training_tools import train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.training.forecast import forecast
from tfpipe.training.time_left import Forecast


def test_the_times_are_those_of_the_settings(small: Path, tmp_path: Path) -> None:
    manifest = load_manifest(small)

    def estimate(**settings: object) -> Forecast:
        config = train_config(small, tmp_path / "run", **settings)
        return forecast(config, manifest, policy="float32", replicas=1)

    began = time.monotonic()
    short, long = (estimate(latent="2x4", prior_steps=steps) for steps in (20, 2000))
    took = time.monotonic() - began
    assert 0.0 < short.step_s < took
    # A validation has as many windows as a batch, and computes no gradients.
    assert 0.0 < short.validation_s < short.step_s
    assert 10 < long.prior_s / short.prior_s < 1000
    assert estimate(latent=4).prior_s == 0.0
    assert not (tmp_path / "run").exists()
