"""Several workers or devices: the same loss as one, and workers that are stopped, killed or started wrongly.

docs/DISTRIBUTED.md describes what happens to such workers.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, environment
from training_tools import THREADS, WITH_PRIOR, arrays, same, train_command, train_config, train_together

from tfpipe.training import checkpoint
from tfpipe.training.loop import train
from tfpipe.training.prior_folder import PRIOR
from tfpipe.training.run_folder import Run, load_run, read_history

GO_ON = "run the same command on all workers to continue from the last checkpoint"


def free_port() -> int:
    """Returns a free port below those that Linux gives to outgoing connections."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", random.randrange(10_000, 32_000)))
            return probe.getsockname()[1]


class Workers:
    """Two workers. The chief gets a run folder; the folder of the other one must not be made."""

    def __init__(self, folder: Path, data: Path, **settings: object) -> None:
        self.folder, self.data, self.run, self.absent = folder, data, folder / "run", folder / "absent"
        self.settings = settings

    def command(self, index: int, *more: object) -> list[str]:
        return [*train_command(self.data, (self.run, self.absent)[index], **self.settings), *map(str, more)]

    def start(
        self, *more: object, more_of_the_second: tuple[object, ...] = (), indices: tuple[int, ...] = (0, 1)
    ) -> list[subprocess.Popen[str]]:
        cluster = {"worker": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
        configs = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)]
        return [
            subprocess.Popen(
                self.command(index, *more, *(more_of_the_second if index else ())),
                env=environment(TF_CONFIG=configs[index], **THREADS),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for index in indices
        ]

    def steps(self) -> set[str]:
        folder = self.run / "checkpoints"
        return {path.name for path in folder.glob("step-*")} if folder.exists() else set()

    def await_checkpoint(self, workers: list[subprocess.Popen[str]]) -> None:
        """Waits until there is a new checkpoint."""
        before, deadline = self.steps(), time.monotonic() + 300
        while not self.steps() - before:
            assert all(worker.poll() is None for worker in workers), [end(worker) for worker in workers]
            assert time.monotonic() < deadline
            time.sleep(0.01)


def end(worker: subprocess.Popen[str]) -> tuple[int, str]:
    """Waits for a worker; returns its exit status and its stderr."""
    try:
        _, errors = worker.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        worker.kill()
        raise
    return worker.returncode, errors


def last(errors: str) -> str:
    """Returns the worker's own last line; TensorFlow may log after it that the other worker is gone."""
    lines = errors.strip().splitlines()
    own = [line for line in lines if line.startswith(("tfpipe: ", "stopped "))]
    assert own, errors
    return own[-1]


def devices_command(count: int, data: Path, run: Path, **settings: object) -> list[str]:
    """Returns the command that trains in one process that divides its CPU into several devices."""
    code = (
        "import sys, tensorflow as tf; from tfpipe.cli.main import main\n"
        "(cpu,) = tf.config.list_physical_devices('CPU')\n"
        f"tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * {count})\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    return [sys.executable, "-c", code, *train_command(data, run, strategy="mirrored", **settings)[3:]]


def assert_same_curves(one: Run, other: Run) -> None:
    for name in ("loss", "mse", "kl", "val_mse", "val_kl"):
        np.testing.assert_allclose([row[name] for row in one.history], [row[name] for row in other.history], rtol=2e-3)
    priors = [read_history(run.path / PRIOR) for run in (one, other)]
    for name in ("step", "loss", "val_loss"):
        np.testing.assert_allclose([row[name] for row in priors[0]], [row[name] for row in priors[1]], rtol=5e-3)


@pytest.fixture(scope="module")
def alone(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of one worker. Tests must not change its folder."""
    config = train_config(small, tmp_path_factory.mktemp("one") / "run", **WITH_PRIOR)
    return train(config, quiet=True)


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one(run_of_two: Run, alone: Run) -> None:
    # Two workers can share batches of 12 evenly, so they see the same global batches.
    assert_same_curves(run_of_two, alone)


@pytest.mark.slow
def test_two_devices_of_a_process_have_the_losses_of_one(small: Path, alone: Run, tmp_path: Path) -> None:
    command = devices_command(2, small, tmp_path / "run", **WITH_PRIOR)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "2 replica(s)" in done.stderr
    assert "cannot share" not in done.stderr
    assert_same_curves(load_run(tmp_path / "run"), alone)


@pytest.mark.slow
def test_batches_that_devices_cannot_share_evenly_are_reported(small: Path, tmp_path: Path) -> None:
    command = devices_command(3, small, tmp_path / "run", batch_size=10, epochs=1, average=0.0)
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if "evenly" in line), "")
        process.kill()  # it is said before the training begins
    assert "3 replicas cannot share batches of 10 evenly, so 1 of each batch are left out" in said
    assert "use --batch-size 9 or 12" in said


@pytest.mark.slow
def test_two_workers_can_share_the_data_by_file(small: Path, alone: Run, tmp_path: Path) -> None:
    together = train_together(small, tmp_path / "run", shard_by="file", **{**WITH_PRIOR, "prior": "none"})
    assert [row["step"] for row in together.history] == [row["step"] for row in alone.history]
    # The batches differ by more than the rounding, but the data are the same.
    assert together.history[-1]["mse"] == pytest.approx(alone.history[-1]["mse"], rel=0.1)
    assert together.history[-1]["mse"] != pytest.approx(alone.history[-1]["mse"], rel=1e-5)
    assert together.config["shard_by"] == "file"


# Two processes are started three times, and other tests may use the cores too.
@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_stopped_and_killed_workers_continue_to_the_same_weights(
    small: Path, run_of_two: Run, tmp_path: Path, slurm: None
) -> None:
    workers = Workers(tmp_path, small, **WITH_PRIOR)
    # A checkpoint after every step, so that the signals arrive long before the end.
    often = ("--checkpoint-every-s", "0.001")

    # SIGTERM to one worker: both save and stop at the same step.
    pair = workers.start(*often)
    workers.await_checkpoint(pair)
    pair[1].send_signal(signal.SIGTERM)
    ends = [end(worker) for worker in pair]
    assert [status for status, _ in ends] == [130, 130], ends
    saved = checkpoint.load(workers.run / "checkpoints")
    assert saved is not None
    words = {re.sub(r"^tfpipe: ", "", last(errors)) for _, errors in ends}
    assert len(words) == 1, words
    epoch, step = saved.state["next_epoch"], saved.state["next_step"]
    where = f"stopped at epoch {epoch + 1}, step {step};" if step else f"stopped after epoch {epoch};"
    assert words.pop().startswith(where)

    # kill -9 of the chief, which holds the connections of all workers.
    pair = workers.start(*often)
    workers.await_checkpoint(pair)
    pair[0].kill()
    assert end(pair[0])[0] == -signal.SIGKILL
    status, errors = end(pair[1])
    assert status == 1, errors
    assert "Traceback" not in errors
    assert last(errors).startswith("tfpipe: worker 1: training stopped, since worker 0 (127.")
    assert last(errors).endswith(GO_ON)

    assert not workers.absent.exists()
    # The tasks of a Slurm job go on. The ports are a function of the job's number.
    command = [str(ROOT / "scripts" / "launch_slurm"), *workers.command(0)]
    job = environment(SLURM_JOB_ID=str(random.randrange(1, 10**6)), **THREADS)
    done = subprocess.run(command, env=job, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "2 replica(s)" in done.stderr
    for folder in ("", PRIOR):
        assert same(arrays(run_of_two.path / folder), arrays(workers.run / folder))
    losses = [[row["loss"] for row in load_run(run).history] for run in (run_of_two.path, workers.run)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_worker_that_hangs_ends_the_training_of_the_others(small: Path, tmp_path: Path) -> None:
    """A stopped process is like a machine that is gone: nothing closes its connections."""
    workers = Workers(tmp_path, small)
    pair = workers.start()
    workers.await_checkpoint(pair)
    pair[1].send_signal(signal.SIGSTOP)
    status, errors = end(pair[0])
    pair[1].kill()
    end(pair[1])
    assert status == 1, errors
    assert "since worker 1 (127." in last(errors)
    assert last(errors).endswith(GO_ON)


@pytest.mark.slow
def test_worker_that_has_not_started_is_named(small: Path, tmp_path: Path) -> None:
    pair = Workers(tmp_path, small).start(indices=(0,))
    assert pair[0].stderr is not None
    line = pair[0].stderr.readline()
    while line and not line.startswith("train: waiting for worker 1 (127."):
        line = pair[0].stderr.readline()
    pair[0].send_signal(signal.SIGINT)
    assert line
    assert end(pair[0])[0] == -signal.SIGINT


@pytest.mark.slow
def test_port_in_use_is_named(small: Path, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        cluster = {"worker": [f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:9"]}
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
        command = Workers(tmp_path, small).command(0)
        done = subprocess.run(
            command, env=environment(TF_CONFIG=config), capture_output=True, text=True, check=False, timeout=300
        )
    assert done.returncode == 1
    assert last(done.stderr).startswith(f"tfpipe: worker 0: cannot join the others from {cluster['worker'][0]}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_workers_with_other_settings_are_refused(small: Path, tmp_path: Path) -> None:
    (_, chief), (status, errors) = (
        end(worker) for worker in Workers(tmp_path, small).start(more_of_the_second=("--latent", "8"))
    )
    assert status == 1
    assert "worker 0 has other settings (latent: 4 there, 8 here); start all workers with the same ones" in errors
    assert last(chief).endswith(GO_ON)
