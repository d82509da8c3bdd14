"""A training as the tasks of a real Slurm job on two nodes: it is put back into the queue, loses a worker, goes on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT, environment
from slurm_tools import NODES, Job, NoSlurmError, slurm, submit
from training_tools import THREADS, WITH_PRIOR, arrays, same, train_command

from tfpipe.training import checkpoint
from tfpipe.training.prior_folder import PRIOR
from tfpipe.training.run_folder import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running Slurm of two nodes, or the reason why there is none."""
    with pytest.MonkeyPatch.context() as patch:
        bin_folder = tmp_path_factory.mktemp("bin")
        (bin_folder / "tfpipe").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tfpipe "$@"\n')
        (bin_folder / "tfpipe").chmod(0o755)
        # A job gets the environment of the command that submits it.
        for name, value in environment(PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}", **THREADS).items():
            patch.setenv(name, value)
        try:
            with slurm(tmp_path_factory.mktemp("slurm")):
                yield
        except NoSlurmError as error:
            pytest.skip(str(error))


def documented_command(data: Path, run: Path) -> list[str]:
    """Returns the sbatch command of docs/DISTRIBUTED.md with other resources and the settings of the tests."""
    page = (ROOT / "docs" / "DISTRIBUTED.md").read_text()
    (block,) = re.findall(r"```sh\n(sbatch .*?)```", page, flags=re.DOTALL)
    command = shlex.split(block.replace("\\\n", " "))
    changes = {"--nodes=4": "--nodes=2", "--cpus-per-task=16": "--cpus-per-task=1"}
    changes["scripts/launch_slurm"] = str(ROOT / "scripts" / "launch_slurm")
    assert changes.keys() <= set(command), f"the page shows another command: {command}"
    kept = command[: command.index("--data")]
    replaced = [changes.get(word, word) for word in kept if not word.startswith("--gpus-per-node")]
    settings = train_command(data, run, **WITH_PRIOR)[4:]
    return [*replaced, *settings, "--checkpoint-every-s", "0.001"]


def saved_steps(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").glob("step-*")}


def await_checkpoint(job: Job, run: Path, *, launch: int) -> dict[int, int]:
    """Waits until both workers of the job's n-th launch run and have saved; returns their process ids."""
    job.wait_for(lambda: job.output.exists() and job.output.read_text().count("2 replica(s)") == launch)
    before = saved_steps(run)
    job.wait_for(lambda: saved_steps(run) - before)
    tasks = job.tasks()
    assert tasks.keys() == {0, 1}
    return tasks


# Two processes are started three times, and other tests may use the cores too.
@pytest.mark.timeout(900)
def test_requeued_and_killed_workers_continue_to_the_same_weights(
    two_nodes: None, small: Path, run_of_two: Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit(documented_command(small, run), tmp_path)

    # Back into the queue while it trains: both save and stop, and the job starts again by itself.
    tasks = await_checkpoint(job, run, launch=1)
    for number, node in enumerate(NODES):
        assert f"SLURMD_NODENAME={node}".encode() in Path(f"/proc/{tasks[number]}/environ").read_bytes().split(b"\0")
    job.requeue()
    tasks = await_checkpoint(job, run, launch=2)
    assert job.output.read_text().count("run the same command to continue") == 2

    # kill -9 of the worker on the second node: the other one ends too, and so does the job.
    os.kill(tasks[1], signal.SIGKILL)
    job.wait_for(lambda: job.state == "FAILED")
    assert not job.tasks()
    assert "worker 0: training stopped, since worker 1 (127.0.0.3:" in job.output.read_text()
    saved = checkpoint.load(run / "checkpoints")
    assert saved is not None

    # The user puts it back into the queue.
    job.requeue()
    job.wait_for(lambda: job.state == "RUNNING")
    job.wait_for(lambda: job.state in ("COMPLETED", "FAILED"))
    assert job.state == "COMPLETED", job.output.read_text()
    assert job.output.read_text().count("2 replica(s)") == 3
    for folder in ("", PRIOR):
        assert same(arrays(run_of_two.path / folder), arrays(run / folder))
