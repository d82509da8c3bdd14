"""Training the vocoder of a run: it continues exactly, says what is wrong, and becomes a part of the exported model."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from once import make_once
from run_tools import save_run
from training_tools import StopsAt, same

import tfpipe as tp
from serving.export.saved_model import export
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest
from tfpipe.errors import RunError, UsageError
from tfpipe.model import networks
from tfpipe.model.magnitudes import MagnitudeSize
from tfpipe.training import checkpoint, vocoder_training
from tfpipe.training.stopping import Interrupted
from tfpipe.training.trained_model import load_models
from tfpipe.training.vocoder_folder import VOCODER

# The network of the product needs a second for a step here.
SMALL = functools.partial(MagnitudeSize, width=24, depth=1)
SETTINGS: dict[str, Any] = {"steps": 30, "precision": "float32", "quiet": True}


@pytest.fixture(scope="session")
def bare_run(job_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with untrained networks and no vocoder. Tests must not change it."""

    def make(folder: Path) -> None:
        models = networks.build("tiny", load_manifest(job_dataset).spec, latent="2x4")
        save_run(folder, job_dataset, models, preset="tiny", latent="2x4")

    return make_once(tmp_path_factory, "bare-run", make)


@pytest.fixture(scope="session")
def with_vocoder(bare_run: Path, job_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a vocoder. Tests must not change it."""

    def make(folder: Path) -> None:
        shutil.copytree(bare_run, folder, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vocoder_training, "MagnitudeSize", SMALL)
            tp.train_vocoder(job_dataset, folder, **SETTINGS)

    return make_once(tmp_path_factory, "with-vocoder", make)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocoder_training, "MagnitudeSize", SMALL)


@pytest.fixture
def run(bare_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare_run, tmp_path / "run"))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / VOCODER / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, Any]:
    saved = checkpoint.load(run / VOCODER / "checkpoints")
    assert saved is not None
    return saved.arrays


def test_it_learns_and_is_reported(with_vocoder: Path) -> None:
    figures = rows(with_vocoder)
    assert [row["step"] for row in figures] == list(range(2, 31, 2))
    assert len({row["without"] for row in figures}) == 1
    # A step sees a random part of a few windows, so the training loss goes up and down.
    held_out = [row["val_loss"] for row in figures]
    assert held_out == sorted(held_out, reverse=True)
    assert held_out[-1] < 0.99 * figures[0]["without"]


def test_a_finished_vocoder_is_not_trained_again_and_other_settings_are_refused(
    with_vocoder: Path, job_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(with_vocoder, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (run / VOCODER).rglob("*") if path.name != ".lock"}
    command = ["train-vocoder", "--data", str(job_dataset), "--run", str(run), "--precision", "float32"]
    assert main([*command, "--steps", "30", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    best = min(rows(run), key=lambda row: row["val_loss"])
    assert said == {"run": str(run), **{name: best[name] for name in ("step", "loss", "val_loss", "without")}}
    assert {path: path.stat().st_mtime_ns for path in (run / VOCODER).rglob("*") if path.name != ".lock"} == before
    assert main([*command, "--steps", "31"]) == 1
    assert "steps: 30 there, 31 now" in capsys.readouterr().err
    with pytest.raises(UsageError, match="stepps: no setting of the vocoder"):
        tp.train_vocoder(job_dataset, run, stepps=3)


@pytest.mark.parametrize("asked", [2, 13])
def test_stopped_and_continued_it_has_the_same_weights(
    asked: int, run: Path, with_vocoder: Path, job_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signals:
        def __enter__(self) -> threading.Event:
            return StopsAt(asked)

        def __exit__(self, *_: object) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(vocoder_training, "stop_signals", Signals)
        with pytest.raises(Interrupted, match=r"stopped at step \d+ of the vocoder; run the same command"):
            tp.train_vocoder(job_dataset, run, **SETTINGS)
    assert load_models(run).vocoder is None
    tp.train_vocoder(job_dataset, run, **SETTINGS)
    assert same(weights(run), weights(with_vocoder))
    assert rows(run) == rows(with_vocoder)


def test_recordings_that_are_gone_are_named(run: Path, job_dataset: Path, tmp_path: Path) -> None:
    data = shutil.copytree(job_dataset, tmp_path / "data")
    manifest = json.loads((data / "dataset.json").read_text())
    manifest["config"]["base"] = str(tmp_path / "gone")
    (data / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"\.wav: the vocoder is trained on the recordings themselves.*put it back"):
        tp.train_vocoder(data, run, **SETTINGS)
    del manifest["config"]["base"]
    (data / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="does not say where its recordings are"):
        tp.train_vocoder(data, run, **SETTINGS)
    assert not (run / VOCODER / "config.json").exists()  # so other settings may be tried
    with pytest.raises(RunError):
        tp.train_vocoder(job_dataset, tmp_path / "none", **SETTINGS)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_exported_model_sounds_as_the_run_with_its_vocoder(
    with_vocoder: Path, bare_run: Path, tmp_path: Path
) -> None:
    model, bare = load_models(with_vocoder), load_models(bare_run)
    rng = np.random.default_rng(0)
    z, ref_db = rng.normal(size=(3, model.latent)).astype(np.float32), np.array([3.0, -5.0, 8.0], np.float32)
    mels = np.asarray(model.decoder(z, training=False))[..., 0]
    wanted, without = model.sound(mels, ref_db), bare.sound(mels, ref_db)
    assert np.sqrt(np.mean((wanted - without) ** 2)) > 0.01 * np.sqrt(np.mean(wanted**2))
    export(run=with_vocoder, output=tmp_path / "vae")
    vae = tp.load(tmp_path / "vae")
    made = vae.decode_audio(z, ref_db)
    assert made.shape == wanted.shape
    # Phases follow from peaks, so tiny differences of magnitude can move single ones; the energy is the same.
    level = 10 * np.log10(np.mean(made**2, axis=1) / np.mean(wanted**2, axis=1))
    assert np.abs(level).max() < 0.2
    assert vae.decode_audio(z[:0], ref_db[:0]).shape == (0, model.spec.samples)
    card = next((tmp_path / "vae").rglob("MODEL_CARD.md")).read_text()
    assert "a vocoder trained on the recordings" in card


def test_silence_stays_silent_and_rows_do_not_depend_on_others(with_vocoder: Path) -> None:
    model = load_models(with_vocoder)
    rng = np.random.default_rng(1)
    mels = rng.uniform(0.0, 1.0, (3, *model.spec.mel_shape)).astype(np.float32)
    mels[1] = 0.0
    mels[2, 0, 0] = np.nan
    together = model.sound(mels, np.zeros(3, np.float32))
    assert not together[1].any()
    assert np.isnan(together[2]).all()
    alone = model.sound(mels[:1], np.zeros(1, np.float32))[0]
    assert np.sqrt(np.mean((together[0] - alone) ** 2)) < 0.05 * np.sqrt(np.mean(alone**2))
