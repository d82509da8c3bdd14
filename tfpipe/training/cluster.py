"""Who trains together: the workers' addresses and this process's number among them, from the environment."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.process import children

_ADDRESS = re.compile(r"(\[[^\]]+\]|[^\s:/\[\]]+):([1-9]\d{0,4})")
_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
# Under the ports that Linux gives to outgoing connections (32768 and up), so that these never stand in the way.
_SLURM_PORTS = range(10_000, 30_000)
_KUBERNETES_PORT = 2222
_ANSWER_S, _TELL_EVERY_S = 5.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers of a training.

    Attributes:
        workers: HOST:PORT of each, in the same order for all; the first is the chief, which alone writes.
        index: this process's place among them.

    Raises:
        UsageError: no workers, an address that is none or stands there twice, or an index outside.
    """

    workers: tuple[str, ...]
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < len(self.workers):
            raise UsageError(f"worker {self.index} is none of the cluster's {len(self.workers)}; they count from 0")
        for address in self.workers:
            match = _ADDRESS.fullmatch(address)
            if match is None or int(match[2]) > 65_535 or self.workers.count(address) > 1:
                raise UsageError(f"worker address {address!r}: use HOST:PORT, another one for each worker")

    @property
    def others(self) -> dict[int, str]:
        """The other workers' addresses by their numbers."""
        return {index: address for index, address in enumerate(self.workers) if index != self.index}


def from_environment(variables: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster that TF_CONFIG, Slurm (`srun`) or Kubernetes (Indexed Job) tells of, in this order.

    Args:
        variables: the environment.

    Returns:
        None where none of them does.

    Raises:
        UsageError: what they say cannot be used.
        TfpipeError: Slurm's `scontrol` does not work.
    """
    return from_tf_config(variables) or _from_slurm(variables) or _from_kubernetes(variables)


def from_tf_config(variables: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster in TF_CONFIG, None when it is not set.

    Raises:
        UsageError: TF_CONFIG is not what TensorFlow documents, or has jobs other than workers.
    """
    text = variables.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
        jobs, task = dict(config["cluster"]), config["task"]
        kind, index, workers = str(task["type"]), int(task["index"]), tuple(map(str, jobs["worker"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"TF_CONFIG cannot be read ({error!r}); it must be such as {_EXAMPLE}") from error
    if {kind, *jobs} != {"worker"}:
        raise UsageError(
            f"TF_CONFIG has {', '.join(sorted({kind, *jobs}))}; list all processes as workers (the first is the chief)"
        )
    return Cluster(workers=workers, index=index)


def _from_slurm(variables: Mapping[str, str]) -> Cluster | None:
    """Reads what `srun` sets for each task; tasks must stand in blocks, `srun --distribution=block`."""
    names = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_JOB_ID")
    if any(name not in variables for name in names):
        return None
    nodes, tasks, index, job = (variables[name] for name in names)
    hosts = _hostnames(nodes)
    counts = [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    if len(counts) != len(hosts):
        raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={tasks} does not fit the {len(hosts)} nodes of {nodes}")
    # Jobs that share a node get ports of their own.
    first = _SLURM_PORTS.start + int(job) * 64 % len(_SLURM_PORTS)
    workers = tuple(
        f"{host}:{first + task}" for host, count in zip(hosts, counts, strict=True) for task in range(count)
    )
    return Cluster(workers=workers, index=int(index))


def _hostnames(nodes: str) -> list[str]:
    """Returns the nodes of a list such as `gpu[01-03,07]`, as Slurm itself reads it."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise TfpipeError(f"{' '.join(command)}: {error}; Slurm's scontrol must work, or set TF_CONFIG") from error
    return done.stdout.split()


def _from_kubernetes(variables: Mapping[str, str]) -> Cluster | None:
    """Reads what an Indexed Job sets, with the job's name and size that `scripts/launch_kubernetes.yaml` adds."""
    names = ("JOB_COMPLETION_INDEX", "TFPIPE_JOB", "TFPIPE_WORKERS")
    if any(name not in variables for name in names):
        return None
    index, job, count = (variables[name] for name in names)
    if not (index.isdecimal() and count.isdecimal()):
        raise UsageError(f"JOB_COMPLETION_INDEX={index} and TFPIPE_WORKERS={count} must be whole numbers")
    # A pod's host name is JOB-INDEX, and the headless Service has the job's name.
    workers = tuple(f"{job}-{number}.{job}:{_KUBERNETES_PORT}" for number in range(int(count)))
    return Cluster(workers=workers, index=int(index))


def silent(cluster: Cluster) -> list[str]:
    """Returns number and address of the other workers at whose address nobody listens."""
    found = []
    for index, address in cluster.others.items():
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except OSError:
            found.append(f"{index} ({address})")
    return found


@contextlib.contextmanager
def telling_who_lacks(cluster: Cluster) -> Iterator[None]:
    """Names the workers that are waited for in the block, every 10 s on stderr.

    In a process of its own: TensorFlow lets no thread of this one run while it waits.
    """
    command = ["-m", "tfpipe.training.cluster", str(cluster.index), *cluster.workers]
    teller = subprocess.Popen(children.python(command), env=children.environment(), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        teller.kill()
        teller.wait()


if __name__ == "__main__":
    waiting = Cluster(workers=tuple(sys.argv[2:]), index=int(sys.argv[1]))
    while True:
        time.sleep(_TELL_EVERY_S)
        if lacking := silent(waiting):
            print(f"train: waiting for worker {', '.join(lacking)}", file=sys.stderr, flush=True)
