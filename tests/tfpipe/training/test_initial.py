"""Runs that begin with the weights of another run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_tools import SETTINGS, arrays, train_config

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import RunError, SpecMismatch, TfpipeError, UsageError
from tfpipe.files.storage import read_json, write_json
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig
from tfpipe.training.initial import load_initial
from tfpipe.training.loop import train
from tfpipe.training.prior_folder import autoencoder_digest
from tfpipe.training.run_folder import Run, claim, load_run
from tfpipe.training.stages import finished


def load(small: Path, run: Path, **settings: Any) -> Any:
    return load_initial(train_config(small, run, **settings), load_manifest(small).spec)


@pytest.mark.slow
def test_a_run_begins_with_the_best_weights_of_another_and_continues_without_it(
    small: Path, trained: Run, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(trained.path, tmp_path / "other"))
    run = tmp_path / "run"
    # A learning rate of nearly zero leaves the weights as they were.
    config = train_config(small, run, init=str(source), epochs=1, learning_rate=1e-12, average=0.0)
    first = train(config, quiet=True)
    before, after = arrays(source, checkpoint.BEST), arrays(run)
    for name in (name for name in after if name.startswith(("encoder/", "decoder/"))):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    best = checkpoint.load(source / "checkpoints", checkpoint.BEST)
    assert best is not None
    assert first.config["init"] == {
        "run": "other",
        "checkpoint": read_json(source / "checkpoints" / "best.json")["checkpoint"],
        "epoch": trained.best["epoch"],
        "weights": autoencoder_digest(best),
    }
    assert first.load().metadata["init"] == first.config["init"]

    shutil.rmtree(source)
    assert finished(config) == first
    more = train(dataclasses.replace(config, epochs=2), quiet=True)
    assert more.config["init"] == first.config["init"]
    assert len(more.history) == 2


def test_weights_that_do_not_fit_are_refused_with_both_values(small: Path, trained: Run, tmp_path: Path) -> None:
    run, init = tmp_path / "run", {"init": str(trained.path)}
    with pytest.raises(
        RunError, match=r"has the networks of preset tiny \(.*\), and this run those of compact \(.*; use --preset tiny"
    ):
        load(small, run, **init, preset="compact")
    with pytest.raises(RunError, match=r"has a latent of 4, and this run of 8; use --latent 4"):
        load(small, run, **init, latent=8)
    spec = dataclasses.replace(load_manifest(small).spec, sample_rate=16_000)
    with pytest.raises(SpecMismatch, match=r"sample_rate: 22050 against 16000"):
        load_initial(train_config(small, run, **init), spec)
    with pytest.raises(RunError, match=r"--init .*nowhere: no training run there"):
        load(small, run, init=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is the run folder itself"):
        load(small, run, init=str(run))
    with pytest.raises(TfpipeError, match="must be a local folder"):
        TrainConfig(data="d", run="r", init="s3://b/run")
    assert not run.exists()


def test_a_run_that_began_with_other_weights_is_refused(small: Path, trained: Run) -> None:
    with pytest.raises(RunError, match=r"other settings \(init: None there, other now\)"):
        finished(train_config(small, trained.path, init="/somewhere/other"))


def test_the_name_of_a_run_in_a_work_folder_has_the_work_folders_name() -> None:
    values = {"data": "d", "run": "r", **{name: SETTINGS[name] for name in ("preset", "latent")}}
    assert TrainConfig(**values, init="/a/piano/run").init_name == "piano/run"
    assert TrainConfig(**values, init="/a/piano").init_name == "piano"
    assert TrainConfig(**values).init_name is None


def test_a_run_killed_before_its_first_checkpoint_begins_only_with_the_recorded_weights(
    small: Path, trained: Run, tmp_path: Path
) -> None:
    run, manifest = tmp_path / "run", load_manifest(small)
    config = train_config(small, run, init=str(trained.path))
    found = load_initial(config, manifest.spec)
    assert found is not None
    claim(run, config, manifest, init=found.record)
    assert load_initial(config, manifest.spec) is not None
    stored = read_json(run / "config.json")
    write_json(run / "config.json", {**stored, "init": {**stored["init"], "weights": "0" * 64}})
    assert load_run(run).config["init"]["weights"] == "0" * 64
    with pytest.raises(RunError, match=r"was to begin with other weights of .* use another --run folder"):
        load_initial(config, manifest.spec)
