"""Who trains together, as TF_CONFIG, Slurm and Kubernetes say it, and the launchers that make it so."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from helpers import ROOT, environment

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.training.cluster import Cluster, from_environment, from_tf_config

SCRIPTS = ROOT / "scripts"
LOCAL = SCRIPTS / "launch_local"
SLURM = {"SLURM_STEP_NODELIST": "gpu[01-03]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_JOB_ID": "77"}
KUBERNETES = {"TFPIPE_JOB": "tfpipe-train", "TFPIPE_WORKERS": "2"}
# Says what a worker sees, as one JSON line.
TELL = (
    "import json, os; names = ('TF_CONFIG', 'CUDA_VISIBLE_DEVICES', 'TF_NUM_INTRAOP_THREADS'); "
    "print(json.dumps({name: os.environ.get(name) for name in names}), flush=True)"
)


def config(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_tf_config():
    found = from_tf_config(config({"worker": ["a:1", "[::1]:2"]}, index=1))
    assert found == Cluster(workers=("a:1", "[::1]:2"), index=1)
    assert found.others == {0: "a:1"}
    assert from_environment({}) is None
    assert from_environment({"TF_CONFIG": " "}) is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG cannot be read"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG cannot be read"),
        (config({"worker": 7}), "TF_CONFIG cannot be read"),
        (config({"chief": ["a:1"], "worker": ["b:1"]}), "TF_CONFIG has chief, worker; list all processes as workers"),
        (config({"worker": ["a:1"]}, kind="evaluator"), "TF_CONFIG has evaluator, worker"),
        (config({"worker": ["a:1"]}, index=1), "no worker 1: the cluster has 1"),
        (config({"worker": ["a:1", "a:1"]}), "'a:1': use HOST:PORT, a different one for each"),
        (config({"worker": ["a"]}), "'a': use HOST:PORT"),
        (config({"worker": ["a:70000"]}), "'a:70000': use HOST:PORT"),
        (config({"worker": []}), "the cluster has 0"),
        ({**KUBERNETES, "JOB_COMPLETION_INDEX": "x"}, "must be whole numbers"),
        ({**KUBERNETES, "JOB_COMPLETION_INDEX": "2"}, "no worker 2: the cluster has 2"),
    ],
)
def test_what_cannot_be_used_is_named(variables, message):
    with pytest.raises(UsageError, match=message):
        from_environment(variables)


def test_slurm(slurm):
    found = [from_environment({**SLURM, "SLURM_PROCID": str(index)}) for index in range(5)]
    assert found[0] is not None
    first = int(found[0].workers[0].partition(":")[2])
    hosts = ["gpu01", "gpu01", "gpu02", "gpu02", "gpu03"]
    # Different ports also on different nodes, because one machine can be several nodes.
    expected = tuple(f"{host}:{first + number}" for number, host in enumerate(hosts))
    assert found == [Cluster(workers=expected, index=index) for index in range(5)]
    other_job = from_environment({**SLURM, "SLURM_JOB_ID": "78", "SLURM_PROCID": "0"})
    assert other_job is not None
    assert not set(other_job.workers) & set(expected)
    with pytest.raises(UsageError, match="does not fit the 3 nodes"):
        from_environment({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_PROCID": "0"})
    with pytest.raises(TfpipeError, match="scontrol show hostnames nowhere"):
        from_environment({**SLURM, "SLURM_STEP_NODELIST": "nowhere", "SLURM_PROCID": "0"})


def test_slurm_script(slurm):
    script = SCRIPTS / "launch_slurm"
    tell = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "train"]
    alone = subprocess.run([script, *tell], capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stderr.startswith("scripts/launch_slurm: this is no Slurm job")) == (2, True)
    job = environment(SLURM_JOB_ID="5")
    done = subprocess.run([script, *tell], env=job, capture_output=True, text=True, check=True)
    assert done.stdout == "['train', '--strategy', 'multiworker']\n"
    assert subprocess.run([script], capture_output=True, text=True, check=True).stdout.startswith("usage: sbatch")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck")
def test_shell_scripts_are_clean():
    scripts = [
        path for path in SCRIPTS.iterdir() if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
    ]
    assert len(scripts) >= 6
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_kubernetes():
    found = from_environment({**KUBERNETES, "JOB_COMPLETION_INDEX": "1"})
    workers = ("tfpipe-train-0.tfpipe-train:2222", "tfpipe-train-1.tfpipe-train:2222")
    assert found == Cluster(workers=workers, index=1)
    assert from_environment({"JOB_COMPLETION_INDEX": "1"}) is None  # a job of another kind


def test_kubernetes_manifest_is_valid_and_means_what_tfpipe_reads():
    service, job = yaml.safe_load_all((SCRIPTS / "launch_kubernetes.yaml").read_text())
    for manifest in (service, job):
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    name = job["metadata"]["name"]
    # The downward API and the Indexed Job fill these in.
    variables |= {"TFPIPE_JOB": name, "JOB_COMPLETION_INDEX": "0"}
    cluster = from_environment(variables)
    assert cluster is not None
    assert len(cluster.workers) == job["spec"]["completions"] == job["spec"]["parallelism"]
    host, _, port = cluster.workers[0].partition(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    ports = [entry["port"] for entry in service["spec"]["ports"]]
    assert ports == [entry["containerPort"] for entry in container["ports"]] == [int(port)]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    broken = {**job, "spec": {**job["spec"], "completionsMode": "Indexed"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def launch(*arguments, **variables):
    env = {**environment(), **variables}
    command = [sys.executable, str(LOCAL), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_local_workers_get_places_cores_and_gpus():
    done = launch(3, "--all-output", "--", sys.executable, "-c", TELL, CUDA_VISIBLE_DEVICES="4,5,6,7,8,9,10")
    assert done.returncode == 0, done.stderr
    seen = {0: json.loads(done.stdout)}
    for line in done.stderr.splitlines():
        seen[int(line[1])] = json.loads(line[4:])
    clusters = [cluster for index in range(3) if (cluster := from_tf_config(seen[index]))]
    assert [cluster.index for cluster in clusters] == [0, 1, 2]
    assert len({cluster.workers for cluster in clusters}) == 1
    assert [seen[index]["CUDA_VISIBLE_DEVICES"] for index in range(3)] == ["4,5", "6,7", "8,9"]
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert {seen[index]["TF_NUM_INTRAOP_THREADS"] for index in range(3)} == {str(threads)}


def test_local_without_enough_gpus():
    done = launch(3, "--", "true", CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 1
    assert "3 workers need a GPU each, here are 2" in done.stderr


@pytest.mark.parametrize("arguments", [(), (2,), (0, "--", "true"), ("two", "--", "true")])
def test_local_usage(arguments):
    done = launch(*arguments)
    assert done.returncode == 2
    assert "usage: scripts/launch_local" in done.stderr


def test_local_unknown_program():
    done = launch(2, "--", "no-such-program")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no-such-program: not in PATH" in done.stderr


def test_local_ends_with_the_status_of_the_first_that_failed():
    code = (
        "import json, os, signal, sys, time\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "print('to stdout', index); sys.stderr.write(f'to stderr {index}\\n')\n"
        "if index == 1: sys.exit(7)\n"
        "if index == 2: time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(2); sys.exit(3)\n"
    )
    done = launch(3, "--", sys.executable, "-c", code)
    assert done.returncode == 7
    assert done.stdout == "to stdout 0\n"
    assert {"to stderr 0", "[1] to stderr 1", "[2] to stderr 2"} < set(done.stderr.splitlines())
    assert "scripts/launch_local: worker 1 ended with status 7" in done.stderr


@contextlib.contextmanager
def launched(setup=""):
    """A launcher of two workers that sleep, and their process ids once they do."""
    code = (
        f"import os, signal, sys, time\n{setup}\n"
        "print(os.getpid(), file=sys.stderr, flush=True)\nwhile True: time.sleep(0.05)"
    )
    command = [sys.executable, str(LOCAL), "2", "--", sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield process, [int(process.stderr.readline().rpartition(" ")[2]) for _ in range(2)]
        finally:
            process.kill()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_end(pids):
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_local_passes_signals_on(number):
    with launched(f"signal.signal({int(number)}, lambda *_: sys.exit(130))") as (process, pids):
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        await_end(pids)


def test_local_workers_do_not_outlive_the_launcher():
    with launched() as (process, pids):
        process.kill()
        await_end(pids)
