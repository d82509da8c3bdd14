"""Figures on a held-out split: dead dimensions, another run on the same windows, the table for people."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from run_tools import save_run

from tfpipe.commands import evaluate as command
from tfpipe.data.manifest import load_manifest
from tfpipe.errors import DatasetError, RunError, UsageError
from tfpipe.evaluation.evaluate import evaluate, plot_reconstructions
from tfpipe.evaluation.windows import Sampler, sample
from tfpipe.model import networks
from tfpipe.training.trained_model import load_models


@pytest.fixture(scope="module")
def half_dead(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with four dimensions, of which 1 and 3 equal the prior for any input."""
    models = networks.build("tiny", load_manifest(dataset).spec, latent=4)
    kernel = models.encoder.get_layer("linear").kernel.numpy()
    kernel[..., 1::2] = 0.0
    models.encoder.get_layer("linear").kernel.assign(kernel)
    models.encoder.get_layer("z_log_var").bias.assign([-4.0, 0.0, -4.0, 0.0])
    return save_run(tmp_path_factory.mktemp("half dead") / "run", dataset, models, preset="tiny", latent=4)


@pytest.fixture(scope="module")
def notebook(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the notebook preset that has collapsed: the latent carries nothing, and every pixel decodes to 0.5."""
    models = networks.build("notebook", load_manifest(dataset).spec, latent=4)
    for weight in [*models.encoder.weights, *models.decoder.weights]:
        weight.assign(np.zeros(weight.shape))
    return save_run(tmp_path_factory.mktemp("notebook") / "run", dataset, models, preset="notebook", latent=4)


@pytest.mark.slow
def test_dead_dimensions_and_another_run_on_the_same_windows(dataset: Path, half_dead: Path, notebook: Path) -> None:
    result = evaluate(str(dataset), str(half_dead), split="validation", against=str(notebook), draws=0, quiet=True)
    assert (result["active_units"], result["dead"]) == (2, [1, 3])
    assert [value > 0.01 for value in result["kl_per_dimension"]] == [True, False, True, False]
    other = evaluate(dataset, notebook, split="validation", draws=0, quiet=True)
    assert (other["kl"], other["dead"]) == (0.0, [0, 1, 2, 3])
    assert result["baselines"]["notebook"] == {
        "mse": other["mse"],
        "kl": 0.0,
        "active_units": 0,
        "latent": 4,
        "run": str(notebook),
    }


@pytest.mark.slow
def test_command_tells_people_and_scripts(
    dataset: Path, half_dead: Path, notebook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = ["--data", str(dataset), "--run", str(half_dead), "--split", "validation", "--draws", "0"]
    arguments += ["--against", str(notebook)]
    assert command.run(parser.parse_args(arguments)) == 0
    said = capsys.readouterr().out
    assert "2 of 4 dimensions active; dead: 1, 3" in said
    assert f"notebook, {notebook}" in said
    assert "left out by --draws 0" in said
    assert command.run(parser.parse_args([*arguments, "--json"])) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["draws"] == {"missing": "left out by --draws 0"}
    assert result["verdict"]["text"].split()[0] in said
    assert result["dead"] == [1, 3]
    assert result["baselines"].keys() == {"mean", "pca", "notebook"}
    assert f"{result['baselines']['notebook']['mse']:.5f}" in said


def test_every_group_is_measured_alike_twice(dataset: Path, half_dead: Path) -> None:
    found = evaluate(dataset, half_dead, split="validation", draws=8, quiet=True)
    assert found == evaluate(dataset, half_dead, split="validation", draws=8, quiet=True)
    assert "nan" not in json.dumps(found).lower()
    bands = found["audio"]["bands"]
    assert (bands[0]["low_hz"], bands[-1]["high_hz"]) == (30.0, 8000.0)
    assert found["mse"] == pytest.approx(np.mean(found["audio"]["mel_bands"]["mse"]), rel=1e-2)
    assert found["audio"]["rate_kbit_s"] == pytest.approx(found["kl"] / np.log(2) / 5.0 / 1000.0)
    assert found["audio"]["listened"] == found["audio"]["level_db"]["windows"] > 0
    assert found["draws"]["count"] == 8
    assert "no label can be asked for" in found["draws"]["label"]["missing"]
    assert found["training"]["mse"] > 0.0
    assert found["verdict"]["text"]


@pytest.mark.slow
def test_windows_of_training_are_not_held_out(dataset: Path, half_dead: Path) -> None:
    found = evaluate(dataset, half_dead, split="train", draws=2, quiet=True)
    assert "missing" in found["training"]
    assert "missing" in found["draws"]["nearest_training"]
    assert found["verdict"]["overfit"] is None


@pytest.mark.parametrize("draws", [1, -5])
def test_one_draw_cannot_be_judged(dataset: Path, half_dead: Path, draws: int) -> None:
    with pytest.raises(UsageError, match="use 0 for none, or at least 2"):
        evaluate(dataset, half_dead, draws=draws, quiet=True)


def test_without_a_test_split_the_one_that_was_held_out_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = SimpleNamespace(examples=lambda split: int(split != "test"), judged_by=["validation", "train"])
    monkeypatch.setattr("tfpipe.evaluation.evaluate.load_manifest", lambda _: manifest)
    with pytest.raises(DatasetError, match="split 'test' is empty; use --split validation or train"):
        evaluate("data", "run")


def test_a_run_to_compare_with_must_be_there(dataset: Path, half_dead: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing: no training run here"):
        evaluate(dataset, half_dead, split="train", against=tmp_path / "nothing", quiet=True)


def test_reconstructions_are_drawn_of_every_label_by_its_name(
    dataset: Path, half_dead: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []

    def note(path: Path, panels: list[tuple[str, object]], *_: object, **__: object) -> None:
        titles.extend(title for title, _ in panels)

    monkeypatch.setattr("tfpipe.evaluation.evaluate.spectrograms", note)
    windows = sample(dataset, "train", Sampler.random(10_000, 10_000))
    model = load_models(half_dead)
    plot_reconstructions(model, windows, split="train", path=tmp_path / "x.png")
    assert len(model.labels) > 1
    assert {title.partition(",")[0] for title in titles[::2]} == set(model.labels)
    assert all(" reconstruction, mse 0." in title for title in titles[1::2])
