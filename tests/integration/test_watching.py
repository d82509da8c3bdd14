"""What a run tells of itself: a collapsed latent, a loss that is not finite, TensorBoard, kept checkpoints, Python."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.bench.training import bench_train
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest
from tfpipe.data.records import decode_example, read_records
from tfpipe.errors import RunError, UsageError
from tfpipe.evaluation.evaluate import evaluate
from tfpipe.training import checkpoint, latent_health, tensorboard
from tfpipe.training.config import TrainConfig
from tfpipe.training.loop import Interrupted, Trainer, train
from tfpipe.training.run_folder import Run
from tfpipe.training.strategy import make_strategy
from tfpipe.training.trained_model import load_models

REPO = Path(__file__).parents[2]


def config(data: Path, run: Path, **settings: Any) -> TrainConfig:
    defaults = {"preset": "tiny", "epochs": 5, "batch_size": 10, "precision": "float32", "seed": 1}
    defaults |= {"latent": 4, "average": 0.9, "keep_every": 2}
    return TrainConfig(data=str(data), run=str(run), **{**defaults, **settings})


def arrays(run: Path, which: str = "latest") -> dict[str, np.ndarray]:
    saved = checkpoint.load(run / "checkpoints", which)
    assert saved is not None
    return saved.arrays


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def plain(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run of five epochs, with an average."""
    return train(config(small, tmp_path_factory.mktemp("plain") / "run"), quiet=True)


@pytest.mark.slow
def test_the_notebook_preset_collapses_and_is_told_so(small: Path, tmp_path: Path, capsys) -> None:
    settings = {"preset": "notebook", "average": 0.0, "keep_every": 0, "latent": 16}
    run = train(config(small, tmp_path / "run", epochs=4, batch_size=4, learning_rate=3e-3, **settings))
    assert run.history[-1]["val_active_units"] == 0
    (sentence,) = run.warnings
    assert "the latent has collapsed: KL 0.0" in sentence
    assert "0 of 16 dimensions active after 4 epochs" in sentence
    assert "--preset standard" in sentence
    # Once when it is seen, once at the end.
    said = [line for line in capsys.readouterr().err.splitlines() if "has collapsed" in line]
    assert len(said) == 2
    assert said[1] == f"train: {sentence}"


def test_a_latent_that_works_gets_no_word(plain: Run) -> None:
    assert plain.history[-1]["val_active_units"] == 4
    assert plain.warnings == ()


def test_few_active_dimensions_are_told_with_held_out_figures_first() -> None:
    rows = [{"epoch": n, "active_units": 9, "kl": 30.0, "val_active_units": 2, "val_kl": 4.0} for n in (1, 2, 3)]
    assert latent_health.warnings(rows[:2], preset="standard", latent=16) == {}
    assert (
        "only 2 of 16 latent dimensions are active after 3 epochs"
        in (latent_health.warnings(rows, preset="standard", latent=16)["few"])
    )
    recovered = [*rows, {**rows[-1], "epoch": 4, "val_active_units": 12}]
    assert latent_health.warnings(recovered, preset="standard", latent=16) == {}


def test_a_loss_that_is_not_finite_names_step_batch_and_last_checkpoint(small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"preset": "notebook", "learning_rate": 1.0, "schedule": "constant", "epochs": 50}
    with pytest.raises(RunError) as raised:
        train(config(small, run, checkpoint_every_s=1e-9, **settings), quiet=True)
    text = str(raised.value)
    found = re.search(
        r"not finite at epoch (\d+), step (\d+) \(mse .*\), in the batch of (\S+), (\S+), (\S+) and 7 more", text
    )
    assert found, text
    record = json.loads((run / "nonfinite.json").read_text())
    assert (record["epoch"], record["step"]) == (int(found[1]), int(found[2]))
    assert record["keys"][:3] == list(found.groups()[2:])
    manifest = load_manifest(small)
    (shard,) = manifest.split_shards("train")
    known = {decode_example(data, manifest.spec.mel_shape).key for data in read_records(small / shard.name)}
    for keys in (record["keys"], record["keys_before"]):
        assert len(set(keys)) == 10
        assert set(keys) <= known
    name = re.search(r"last finite checkpoint is (step-\d+)", text)[1]
    assert all(np.isfinite(array).all() for array in arrays(run, name).values())
    assert not (run / "DONE").exists()


def test_numbered_checkpoints_stay_and_can_be_named(small: Path, plain: Run, capsys) -> None:
    assert set(plain.checkpoints) >= {"step-00000012", "step-00000024", "step-00000030"}
    assert len(plain.checkpoints) <= 4  # the best may be one more
    assert plain.load("step-00000012").metadata["epoch"] == 2
    assert not same(arrays(plain.path, "step-00000012"), arrays(plain.path, "step-00000024"))
    judged = evaluate(small, plain.path, split="validation", which="step-00000024", quiet=True)
    assert judged["mse"] == pytest.approx(plain.history[3]["val_mse"], rel=1e-4)
    with pytest.raises(RunError, match=r"step-00000006: the checkpoint is gone \(there: step-00000012, "):
        load_models(plain.path, which="step-00000006")
    with pytest.raises(UsageError, match="use best, latest, or a name such as step-00000120"):
        load_models(plain.path, which="../best")
    options = ("--data", str(small), "--split", "validation", "--run", str(plain.path))
    assert main(["evaluate", *options, "--which", "worst"]) == 2
    assert "'worst' is unknown" in capsys.readouterr().err


def events(run: Path) -> dict[str, list[Any]]:
    """Values by tag."""
    found: dict[str, list[Any]] = {}
    for file in sorted((run / "tensorboard").glob("events.*")):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    return found


def test_tensorboard_shows_and_sounds_the_same_windows_and_changes_no_weight(
    small: Path, plain: Run, tmp_path: Path, monkeypatch
) -> None:
    assert [step for step, _ in events(plain.path)["pictures/samples from the prior"]] == [5]  # short: at the end alone
    monkeypatch.setattr(tensorboard.Summaries, "due", property(lambda self: self._spent == 0.0))
    # Not in the main thread, as some programs will.
    often = asyncio.run(asyncio.to_thread(train, config(small, tmp_path / "often"), quiet=True))
    assert same(arrays(plain.path), arrays(often.path))
    found = events(often.path)
    assert [step for step, _ in found["val_mse"]] == [1, 2, 3, 4, 5]
    pictures = found["pictures/original | reconstruction"]
    assert [step for step, _ in pictures] == [1, 5]
    decoded = [[tf.io.decode_png(png).numpy()[..., 0] for png in value[2:]] for _, value in (pictures[0], pictures[-1])]
    for first, last in zip(*decoded, strict=True):
        assert first.shape == (16, 16 + 4 + 16)
        assert np.array_equal(first[:, :16], last[:, :16])
        assert not np.array_equal(first[:, 20:], last[:, 20:])
    (original,) = found["sounds/original"]
    assert len(found["sounds/reconstruction"]) == len(found["sounds/samples from the prior"]) == 2
    wav = original[1].ravel()[0]
    audio, rate = tf.audio.decode_wav(wav)
    assert (rate, audio.shape[0]) == (22_050, often.spec.samples)
    assert np.abs(audio).max() > 0.01
    assert found["latent/z_mean"][-1][1][:, 2].sum() == 12 * 4
    assert found["latent/KL per dimension"][-1][1][:, 2].sum() == 4


def test_an_interrupted_run_with_an_average_goes_on_exactly(small: Path, plain: Run, tmp_path: Path) -> None:
    part = config(small, tmp_path / "part", checkpoint_every_s=1e-9)
    stop = threading.Event()
    trainer = Trainer(part, load_manifest(small), make_strategy("single"))
    trainer.restore()
    stop.set()
    # What the first step brings is learnt with the second, by all workers alike.
    with pytest.raises(Interrupted, match="epoch 1, step 2"):
        trainer.run(stop, quiet=True)
    # As after a kill: the folder alone is left.
    resumed = Trainer(part, load_manifest(small), make_strategy("single"))
    resumed.restore()
    assert (resumed.state.epoch, resumed.state.step) == (0, 2)
    resumed.run(threading.Event(), quiet=True)
    saved = arrays(plain.path)
    assert same(saved, arrays(tmp_path / "part"))
    name = next(name for name in saved if name.startswith("decoder/"))
    assert not np.array_equal(saved[name], saved[f"trained_{name}"])


def test_the_page_on_training_runs_in_a_notebook(small: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """As in Jupyter, inside a running event loop."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "TRAINING.md").read_text(), re.DOTALL)
    os.symlink(small, tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    async def cell() -> None:
        exec(compile(snippet, "docs/TRAINING.md", "exec"), {})

    asyncio.run(cell())
    assert re.match(r"[12] 0\.0", capsys.readouterr().out)
    assert Path("run/DONE").exists()


@pytest.mark.slow
def test_bench_train_gives_ratios_of_one_run(small: Path) -> None:
    results = {result.name: result for result in bench_train(small, rounds=1, steps=2)}
    assert results["the notebook's Keras code, float32"].ratio == 1.0
    for preset in ("notebook", "standard"):
        mine = {name: result for name, result in results.items() if name.startswith(f"{preset}, ")}
        assert [result.against for result in mine.values()] == ["limit", "limit", "baseline", None]
        assert all(result.value > 0 for result in mine.values())
    with pytest.raises(UsageError, match="rounds=0"):
        bench_train(small, rounds=0)
