"""The input pipeline over tf.data service, with the processes that `tfpipe data-service` starts."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys

import pytest
from dataset_tools import require_same_batches
from helpers import environment, slow

from tfpipe.cli.main import main
from tfpipe.data import service_processes
from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.data_service import addresses, watched
from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Part, Position
from tfpipe.errors import TfpipeError

AUGMENT = AugmentConfig(roll_s=0.5, gain_db=6.0, mixup=1.0)


def free_ports():
    """A port that is free, and so the next one."""
    while True:
        with socket.create_server(("", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("", port + 1)).close()
            except OSError:
                continue
            return port


@pytest.fixture(scope="module")
def service():
    """Two processes; also the port of the first."""
    port = free_ports()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["data-service", "start", "--workers", "2", "--port", str(port)]) == 0
    try:
        yield addresses(said.getvalue().strip()), port
    finally:
        assert main(["data-service", "stop", "--port", str(port)]) == 0


def batches(folder, service=(), **settings):
    settings = {"split": "train", "batch_size": 4, "seed": 3, "augment": AUGMENT, **settings}
    return list(watched(make_dataset(folder, service=service, **settings).as_numpy_iterator(), service))


@pytest.mark.parametrize(
    "settings",
    [
        slow({}),
        {"position": Position(epoch=2, step=1)},
        {"part": Part(worker=1, workers=2), "batch_size": 5},
        {"part": Part(replicas=2)},
        {"split": "validation", "seed": None, "augment": None},
    ],
    ids=["epoch", "position", "worker", "replicas", "validation"],
)
def test_everything_is_as_without_it(dataset, service, settings):
    ours, theirs = batches(dataset, service[0], **settings), batches(dataset, **settings)
    require_same_batches(ours, theirs)


def test_every_example_comes_once_an_epoch(dataset, service):
    for epoch in range(2):
        found = batches(dataset, service[0], position=Position(epoch=epoch))
        keys = [key for batch in found for key in batch["key"]]
        assert len(keys) == len(set(keys)) == load_manifest(dataset).examples("train")


@pytest.mark.slow
def test_a_second_worker_of_a_dispatcher_is_noticed(dataset):
    """A second worker would send every batch again; the range is long enough that its batches arrive in time."""
    code = (
        "import sys, time; import tensorflow as tf; from tfpipe.data.data_service import spread\n"
        "s = tf.data.experimental.service\n"
        "d = s.DispatchServer()\n"
        "where = d.target.removeprefix('grpc://')\n"
        "both = [s.WorkerServer(s.WorkerConfig(dispatcher_address=where)) for _ in range(2)]\n"
        "while d._num_workers() < 2: time.sleep(0.01)\n"
        "many = 300_000\n"
        "spread_ = spread(tf.data.Dataset.range(many), lambda x: x, service=(d.target,), total=many)\n"
        "try: print(sum(1 for _ in spread_.as_numpy_iterator()), 'batches came')\n"
        "except tf.errors.InvalidArgumentError as error: print(error.message)\n"
        "sys.stdout.flush(); import os; os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert "was restarted, or has more than one worker" in done.stdout, done.stderr


def test_nobody_at_the_address(dataset):
    with pytest.raises(TfpipeError, match=r"grpc://localhost:9: no data service answers .*tfpipe data-service start`"):
        batches(dataset, ("grpc://localhost:9",))


def test_the_command_refuses_a_second_service_on_the_port(service, capsys):
    assert main(["data-service", "start", "--port", str(service[1])]) == 1
    assert f"the data service already runs on port {service[1]}; use it, or end it" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--workers", "0"], ["--workers", "none"], ["--port", "70000"], ["--host", "a b"]])
def test_the_command_refuses_wrong_values(wrong, capsys):
    assert main(["data-service", "start", *wrong]) == 2
    assert wrong[0].removeprefix("--") in capsys.readouterr().err


def test_stopping_when_nothing_runs_is_fine(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["data-service", "stop", "--port", "5999"]) == 0


@pytest.mark.slow
def test_a_killed_process_ends_training_with_one_line(dataset, service):
    """This is the last test because it kills a process of the service. The dataset is long enough to be read still."""
    found, port = service
    code = (
        "import dataclasses, os, sys\n"
        "from tfpipe.data.data_service import addresses, watched; from tfpipe.errors import TfpipeError\n"
        "from tfpipe.process.exit_status import end_process\n"
        "from tfpipe.data.pipeline import make_dataset; from tfpipe.data.manifest import load_manifest\n"
        "folder, pid, *service = sys.argv[1:]; service = tuple(service); manifest = load_manifest(folder)\n"
        "manifest = dataclasses.replace(manifest, shards=manifest.shards * 3000)\n"
        "dataset = make_dataset(folder, split='train', batch_size=4, seed=0, manifest=manifest, service=service)\n"
        "try:\n"
        "    for number, _ in enumerate(watched(dataset, service)):\n"
        "        if number == 5: os.kill(int(pid), 9)\n"
        "except TfpipeError as error: print(error)\n"
        "end_process(7)\n"
    )
    pid = str(service_processes.process_ids(port)[port + 1])
    command = [sys.executable, "-c", code, str(dataset), pid, *found]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 7, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{found[1]}: no data service answers")
    assert port + 1 not in service_processes.process_ids(port)
