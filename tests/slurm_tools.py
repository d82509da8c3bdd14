"""A real Slurm of two nodes on this machine: its daemons, and the jobs of a test."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "setpriv")
# A node has the name by which other nodes reach it. These addresses mean this machine, and need no name server.
NODES = ("127.0.0.2", "127.0.0.3")
# Two lines are about time. A job that is put back into the queue starts after six seconds instead of two minutes
# (cred_expire). And a signal for a worker that takes long to end counts as delivered: by default, Slurm would send it
# again after a minute, and then to the worker that has taken its place (MessageTimeout, in s). The ports of a training
# follow from the job's number, so the first number is random: other tests may run on this machine.
_CONF = """
ClusterName=tfpipe
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MessageTimeout=100
FirstJobId={first_job}
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class NoSlurmError(Exception):
    """Slurm cannot run here."""


@dataclass(frozen=True)
class Job:
    """A batch job: its number, and the file that it writes to."""

    number: int
    output: Path

    @property
    def state(self) -> str:
        """The job's state, such as RUNNING."""
        fields = _run("scontrol", "--oneliner", "show", "job", str(self.number)).split()
        return dict(field.partition("=")[::2] for field in fields)["JobState"]

    def requeue(self) -> None:
        """Puts the job back into the queue, as a user does."""
        _run("scontrol", "requeue", str(self.number))

    def tasks(self) -> dict[int, int]:
        """Returns the process ids of the running `tfpipe train` by the numbers of the workers."""
        found: dict[int, int] = {}
        # Another Slurm on this machine may have a job of the same number.
        mine = {f"SLURM_JOB_ID={self.number}".encode(), f"SLURM_CONF={os.environ['SLURM_CONF']}".encode()}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "environ").read_bytes().split(b"\0")
                number = next((word[13:] for word in words if word.startswith(b"SLURM_PROCID=")), b"")
                command = (folder / "cmdline").read_bytes().split(b"\0")
                # The batch script has become srun, which has a number too.
                if mine <= set(words) and number and b"train" in command and command[0] != b"srun":
                    # A worker's own children have higher process ids.
                    found[int(number)] = min(int(folder.name), found.get(int(number), 1 << 30))
        return found

    def wait_for(self, condition: Callable[[], object], *, seconds: float = 280.0) -> None:
        """Waits until a condition holds; shows the job's output if that takes too long."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.state}: {self.output.read_text()}"
            time.sleep(0.05)


def submit(command: list[str], folder: Path) -> Job:
    """Submits a command that begins with `sbatch`; the job writes to a file in `folder`."""
    output = folder / "job.log"
    more = ("--parsable", f"--output={output}", f"--chdir={folder}")
    return Job(int(_run(command[0], *more, *command[1:])), output)


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Runs two nodes of Slurm, with its own munge, and lets the commands of this process reach them.

    Raises:
        NoSlurmError: Slurm is not installed, or does not start.
    """
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        raise NoSlurmError(f"needs {', '.join(missing)} (Debian's slurm-wlm and munge)")
    if os.geteuid() != 0:
        raise NoSlurmError("Slurm's daemons need root")
    daemons: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(_configure(folder)))
        try:
            for command in _commands(folder):
                daemons.append(_start(command, folder))
            _await(daemons, folder)
            yield
        finally:
            _end_jobs()
            # Nobody needs what they would save.
            for daemon in reversed(daemons):
                daemon.kill()
                daemon.wait()


def _end_jobs() -> None:
    """Kills all jobs and waits until their processes are gone: they would outlive the daemons."""
    end = time.monotonic() + 30
    with contextlib.suppress(subprocess.SubprocessError):
        while (
            time.monotonic() < end
            and subprocess.run(["squeue", "--noheader"], capture_output=True, check=True, timeout=10).stdout
        ):
            subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], capture_output=True, timeout=10)
            subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=10)
            time.sleep(0.2)


def _configure(folder: Path) -> Path:
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    conf = folder / "slurm.conf"
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [probe.getsockname()[1] for probe in probes]
    host, first_job = socket.gethostname().partition(".")[0], random.randrange(1, 10**6)
    conf.write_text(_CONF.format(host=host, folder=folder, nodes=NODES, ports=ports, first_job=first_job))
    return conf


def _commands(folder: Path) -> list[list[str]]:
    names = {"key": "key", "log": "log", "pid": "pid", "seed": "seed"}
    munge = [f"--{name}-file={folder}/munge.{suffix}" for name, suffix in names.items()]
    return [
        # Forced, because the folders above may be open to others.
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "daemons.log", "ab") as log:
        # They end with this process, even if it is killed.
        command = ["setpriv", "--pdeathsig=TERM", *command]
        daemon = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    if "munged" in command:  # the others give up without it
        end = time.monotonic() + 10
        while not (folder / "munge.socket").exists() and daemon.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
    return daemon


def _await(daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Waits until a task has run on all nodes."""
    end, message = time.monotonic() + 60, ""
    task = ["srun", f"--nodes={len(NODES)}", "--immediate=5", "true"]
    while time.monotonic() < end and all(daemon.poll() is None for daemon in daemons):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(task, capture_output=True, text=True, check=False, timeout=20)
            if done.returncode == 0:
                return
            message = done.stderr.strip()
        time.sleep(0.1)
    errors = [line for line in (folder / "daemons.log").read_text().splitlines() if "error" in line.lower()]
    raise NoSlurmError(f"Slurm does not start here: {(errors or [message])[-1]}")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
