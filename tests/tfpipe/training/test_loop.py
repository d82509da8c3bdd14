"""Training by real processes: exact resume, several workers, interruption, refused settings."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import ROOT, environment, last_json, tfpipe

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import RunError
from tfpipe.training import checkpoint
from tfpipe.training.checkpoint import assign, named
from tfpipe.training.run_folder import load_run
from tfpipe.training.trained_model import load_models

# Augmented, so that what is said of resuming and of several workers holds with it; mixup alone sees the workers' parts.
AUGMENT = ("--freq-mask", "8", "--time-mask", "12", "--roll-s", "0.2", "--gain-db", "2")
TRAIN = ("--preset", "tiny", "--epochs", "3", "--batch-size", "4", *AUGMENT, "--seed", "7")


def train_command(data: Path, run: Path, *more: object) -> list[str]:
    return [sys.executable, "-m", "tfpipe", "train", "--data", str(data), "--run", str(run), *TRAIN, *map(str, more)]


def weights(run: Path) -> dict[str, np.ndarray]:
    saved = checkpoint.load(run / "checkpoints")
    assert saved is not None
    return saved.arrays


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("finished") / "run"
    done = tfpipe("train", "--data", dataset, "--run", run, *TRAIN, "--json")
    assert last_json(done)["epochs"] == 3
    return run


def test_run_folder_holds_what_the_design_says(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        "config.json",
        "spec.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "DONE",
    }
    run = load_run(finished)
    assert run.done
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.history[-1]["mse"] < run.history[0]["mse"]
    assert run.best["epoch"] in (1, 2, 3)


def test_killed_run_resumes_to_bit_identical_weights(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rng = random.Random(os.getpid())
    for kills in range(2):
        process = subprocess.Popen(
            [*train_command(dataset, run), "--json"],
            env=environment(),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        before = len(list((run / "checkpoints").glob("step-*"))) if run.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            names = list((run / "checkpoints").glob("step-*")) if run.exists() else []
            if len(names) > before or (kills and names):
                time.sleep(rng.uniform(0.0, 0.5))
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert last_json(tfpipe("train", "--data", dataset, "--run", run, *TRAIN, "--json"))["epochs"] == 3
    expected, resumed = weights(finished), weights(run)
    assert expected.keys() == resumed.keys()
    assert all(np.array_equal(expected[name], resumed[name]) for name in expected)
    names = ("epoch", "step", "loss", "mse", "kl", "val_loss")
    rows = [[{name: row.get(name) for name in names} for row in load_run(path).history] for path in (finished, run)]
    assert rows[0] == rows[1]


def test_sigterm_saves_inside_the_epoch_and_resume_is_exact(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        train_command(dataset, run), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    while line and not line.startswith("train: "):
        line = process.stderr.readline()
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    process.stderr.read()
    process.stderr.close()
    status = process.wait(timeout=60)
    if status:  # on a fast machine the run may have ended before
        assert status == 130
        assert not (run / "DONE").exists()
        assert checkpoint.load(run / "checkpoints") is not None
    last_json(tfpipe("train", "--data", dataset, "--run", run, *TRAIN, "--json"))
    assert all(np.array_equal(value, weights(run)[name]) for name, value in weights(finished).items())


def test_training_again_says_so_and_changes_nothing(dataset: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    last_json(tfpipe("train", "--data", dataset, "--run", finished, *TRAIN, "--json"))
    assert before == {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"
    }


def test_other_settings_are_refused_with_the_difference(dataset: Path, finished: Path) -> None:
    done = tfpipe("train", "--data", dataset, "--run", finished, *TRAIN[:-1], "8")
    assert done.returncode == 1
    assert "seed: 7 there, 8 now" in done.stderr
    assert "Traceback" not in done.stderr


def test_state_is_assigned_whatever_number_keras_gave_the_layer() -> None:
    """A second model of one process is named otherwise than its first."""
    first, later = (
        [keras.Variable(np.full(2, value, np.float32), name=f"{layer}_kernel_momentum")]
        for value, layer in ((1.0, "conv2d"), (0.0, "conv2d_10"))
    )
    assign(
        later,
        {name: np.asarray(value) for name, value in named(first, "optimizer").items()},
        prefix="optimizer",
        where="",
    )
    assert np.array_equal(later[0], first[0])
    with pytest.raises(RunError, match="another model's"):
        assign(later, {"optimizer/000/dense_kernel_momentum": np.zeros(2)}, prefix="optimizer", where="")


def test_damaged_checkpoint_is_named(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    state = next((run / "checkpoints").glob("step-*")) / "state.npz"
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for path in (run / "checkpoints").glob("step-*/state.npz"):
        path.write_bytes(bytes(damaged))
    with pytest.raises(RunError, match="damaged"):
        load_models(run)


def test_load_models_gives_float32_models_that_reconstruct(finished: Path, dataset: Path) -> None:
    from tfpipe.evaluation.evaluate import evaluate

    model = load_models(finished, which="latest")
    assert {variable.dtype for variable in [*model.encoder.weights, *model.decoder.weights]} == {"float32"}
    result = evaluate(dataset, finished, split="train", quiet=True)
    assert result["mse"] < result["baselines"]["mean"]["mse"]
    assert result["baselines"]["pca"]["mse"] < result["baselines"]["mean"]["mse"]
    assert len(result["kl_per_dimension"]) == result["latent"] == model.latent


def train_together(data: Path, run: Path, *more: object) -> None:
    """Trains with two worker processes on this machine."""
    launcher = [sys.executable, str(ROOT / "scripts" / "launch_local"), "2", "--"]
    command = [*launcher, *train_command(data, run, *more)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "2 replica(s)" in done.stderr


def test_two_workers_give_the_loss_curve_of_one(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_together(dataset, run)
    alone, together = load_run(finished).history, load_run(run).history
    # The training split divides by the workers, so both saw the same global batches.
    for name in ("loss", "mse", "kl", "val_mse", "val_kl"):
        np.testing.assert_allclose([row[name] for row in together], [row[name] for row in alone], rtol=2e-3)


def train_on_devices(count: int, dataset: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Trains in one process whose processor counts as several devices."""
    code = (
        "import sys, tensorflow as tf; from tfpipe.cli.main import main\n"
        "(cpu,) = tf.config.list_physical_devices('CPU')\n"
        f"tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * {count})\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = train_command(dataset, run, "--strategy", "mirrored", *more)[3:]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert f"{count} replica(s)" in done.stderr
    return done


@pytest.mark.slow
def test_two_devices_of_a_process_give_the_loss_curve_of_one(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train_on_devices(2, dataset, run)
    assert "cannot share" not in done.stderr
    alone, mirrored = load_run(finished).history, load_run(run).history
    for name in ("loss", "mse", "kl", "val_mse", "val_kl"):
        np.testing.assert_allclose([row[name] for row in mirrored], [row[name] for row in alone], rtol=2e-3)


@pytest.mark.slow
def test_batches_that_devices_cannot_share_evenly_are_told(dataset: Path, tmp_path: Path) -> None:
    done = train_on_devices(3, dataset, tmp_path / "run", "--batch-size", "8", "--epochs", "1")
    assert "3 replicas cannot share batches of 8 evenly: 2 of each are left out" in done.stderr
    assert "--batch-size 6 or 9 leaves out none" in done.stderr


@pytest.mark.slow
def test_two_workers_share_the_data_by_file(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_together(dataset, run, "--shard-by", "file")
    alone, together = load_run(finished).history, load_run(run).history
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    # Other batches, the same data.
    assert together[-1]["mse"] == pytest.approx(alone[-1]["mse"], rel=0.1)
    assert together[-1]["mse"] != alone[-1]["mse"]
    assert json.loads((run / "config.json").read_text())["shard_by"] == "file"


@pytest.mark.slow
def test_a_run_killed_after_its_last_epoch_trains_no_further(dataset: Path, tmp_path: Path) -> None:
    command = ("train", "--data", dataset, "--run", tmp_path / "run", "--preset", "tiny", "--epochs", "20")
    early = (*command, "--batch-size", "4", "--patience", "1", "--learning-rate", "0.003", "--json")
    epochs = last_json(tfpipe(*early))["epochs"]
    assert epochs < 20
    (tmp_path / "run" / "DONE").unlink()
    assert last_json(tfpipe(*early))["epochs"] == epochs


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_trains_as_float32_does(dataset: Path, finished: Path, tmp_path: Path, precision: str) -> None:
    run = tmp_path / "run"
    last_json(tfpipe("train", "--data", dataset, "--run", run, *TRAIN, "--precision", precision, "--json"))
    expected, got = load_run(finished).history, load_run(run).history
    np.testing.assert_allclose([row["mse"] for row in got], [row["mse"] for row in expected], rtol=0.02)
    assert {array.dtype for name, array in weights(run).items() if name.startswith("decoder")} == {np.dtype("float32")}


def test_a_loss_that_leaves_the_finite_numbers_stops_with_step_and_fix(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = tfpipe("train", "--data", dataset, "--run", run, *TRAIN, "--learning-rate", "0.5", "--schedule", "constant")
    assert done.returncode == 1
    assert "the loss is not finite at epoch" in done.stderr
    assert "--learning-rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "DONE").exists()


def test_damage_stops_training_or_is_left_out(dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    shard = load_manifest(data).split_shards("train")[0]
    content = bytearray((data / shard.name).read_bytes())
    content[-5000] ^= 1
    (data / shard.name).write_bytes(content)
    options = ("--data", data, "--preset", "tiny", "--epochs", "1", "--batch-size", "4")
    stopped = tfpipe("train", *options, "--run", tmp_path / "stopped")
    assert stopped.returncode == 1
    last = stopped.stderr.splitlines()[-1]
    assert f"{shard.name}: damaged record at byte" in last
    assert "--on-corrupt skip" in last
    done = tfpipe("train", *options, "--run", tmp_path / "run", "--on-corrupt", "skip", "--json")
    assert last_json(done)["epochs"] == 1
    assert f"1 of its {shard.examples} examples are left out" in done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["left_out"]
    refused = tfpipe("train", *options, "--run", tmp_path / "run", "--on-corrupt", "skip", "--seed", "1")
    assert "seed: 0 there, 1 now" in refused.stderr
