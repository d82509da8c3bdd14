"""The cluster: the addresses of the workers and the number of this one, read from environment variables."""

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
# Below the ports that Linux gives to outgoing connections (32768 and up), which could otherwise be in use.
_SLURM_PORTS = range(10_000, 30_000)
_SLURM_PORTS_PER_JOB = 64
_KUBERNETES_PORT = 2222
_ANSWER_S, _TELL_EVERY_S = 5.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers that train together.

    Attributes:
        workers: HOST:PORT of each, in the same order on all workers. The first is the chief, the only one
            that writes the run folder.
        index: number of this process in `workers`.

    Raises:
        UsageError: there are no workers, an address is not HOST:PORT or is listed twice, or the index is too large.
    """

    workers: tuple[str, ...]
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < len(self.workers):
            count = len(self.workers)
            raise UsageError(f"there is no worker {self.index}: the cluster has {count}, numbered from 0")
        for address in self.workers:
            match = _ADDRESS.fullmatch(address)
            if match is None or int(match[2]) > 65_535 or self.workers.count(address) > 1:
                raise UsageError(f"worker address {address!r}: use HOST:PORT, a different one for each worker")

    @property
    def others(self) -> dict[int, str]:
        """The other workers' addresses by their numbers."""
        return {index: address for index, address in enumerate(self.workers) if index != self.index}


def from_environment(variables: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster from the variables of TF_CONFIG, Slurm (`srun`) or Kubernetes (Indexed Job), in this order.

    Args:
        variables: the environment.

    Returns:
        The cluster, or None if none of them is set.

    Raises:
        UsageError: the variables cannot be used.
        TfpipeError: Slurm's `scontrol` does not work.
    """
    return from_tf_config(variables) or _from_slurm(variables) or _from_kubernetes(variables)


def from_tf_config(variables: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster from TF_CONFIG; returns None if it is not set.

    Raises:
        UsageError: TF_CONFIG does not have the format that TensorFlow documents, or has jobs other than workers.
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
    """Reads the variables that `srun` sets for each task; it must be called with `--distribution=block`."""
    names = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_JOB_ID")
    if any(name not in variables for name in names):
        return None
    nodes, tasks, index, job = (variables[name] for name in names)
    hosts = _hostnames(nodes)
    counts = [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    if len(counts) != len(hosts):
        raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={tasks} does not fit the {len(hosts)} nodes of {nodes}")
    # The ports follow from the job's number, so that jobs on the same node have different ones, and from the worker's,
    # because one machine can be several nodes.
    first = _SLURM_PORTS.start + int(job) * _SLURM_PORTS_PER_JOB % len(_SLURM_PORTS)
    places = [host for host, count in zip(hosts, counts, strict=True) for _ in range(count)]
    workers = tuple(f"{host}:{first + number % _SLURM_PORTS_PER_JOB}" for number, host in enumerate(places))
    return Cluster(workers=workers, index=int(index))


def _hostnames(nodes: str) -> list[str]:
    """Lets Slurm expand a list of nodes such as `gpu[01-03,07]`."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise TfpipeError(f"{' '.join(command)}: {error}; Slurm's scontrol must work, or set TF_CONFIG") from error
    return done.stdout.split()


def _from_kubernetes(variables: Mapping[str, str]) -> Cluster | None:
    """Reads the index that an Indexed Job sets, and the job's name and size that `launch_kubernetes.yaml` sets."""
    names = ("JOB_COMPLETION_INDEX", "TFPIPE_JOB", "TFPIPE_WORKERS")
    if any(name not in variables for name in names):
        return None
    index, job, count = (variables[name] for name in names)
    if not (index.isdecimal() and count.isdecimal()):
        raise UsageError(f"JOB_COMPLETION_INDEX={index} and TFPIPE_WORKERS={count} must be whole numbers")
    # The host name of a pod is JOB-INDEX, and the headless Service has the name of the job.
    workers = tuple(f"{job}-{number}.{job}:{_KUBERNETES_PORT}" for number in range(int(count)))
    return Cluster(workers=workers, index=int(index))


def silent(cluster: Cluster) -> list[str]:
    """Returns number and address of the other workers that cannot be connected to."""
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
    """Prints every 10 s on stderr which workers the block is still waiting for.

    A separate process prints, because TensorFlow lets no thread of this process run while it waits.
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
