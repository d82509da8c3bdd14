"""A job on Apache Flink, inside a job server and on a cluster, gives the same bytes and errors as a local one."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest
from engine_tools import config, free_ports, wait_for
from helpers import ROOT, environment
from job_tools import config_for, fetched, shard_bytes

from beam_jobs.job import preprocess
from tfpipe.data.manifest import load_manifest
from tfpipe.data.verify import verify
from tfpipe.errors import TfpipeError

pytestmark = pytest.mark.slow


def flink(*arguments):
    """Runs scripts/flink with this Python for the workers."""
    return subprocess.run(
        [ROOT / "scripts" / "flink", *map(str, arguments)],
        env=environment(PYTHON=sys.executable),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def job_server():
    """Options for a job server that Beam starts; its jar is downloaded once."""
    fetched(flink)
    jar = ROOT / ".flink" / "job-server.jar"
    return [
        "--runner=FlinkRunner",
        f"--flink_job_server_jar={jar}",
        "--job_server_jvm_properties=-XX:TieredStopAtLevel=1",
        "--environment_cache_millis=10000",
    ]


@pytest.fixture(scope="module")
def cluster(job_server):
    """A cluster that scripts/flink starts: its port and the options for it."""
    port = free_ports(4)
    started = flink("start", "--port", port)
    assert started.returncode == 0, started.stderr
    try:
        yield port, started.stdout.split()
    finally:
        assert flink("stop", "--port", port).returncode == 0
        assert not list((ROOT / ".flink" / f"run-{port}" / "pids").iterdir())
        shutil.rmtree(ROOT / ".flink" / f"run-{port}")


def jobs(port):
    with urllib.request.urlopen(f"http://localhost:{port}/jobs/overview", timeout=10) as reply:
        return {job["name"]: job["state"] for job in json.load(reply)["jobs"]}


def test_a_flink_inside_the_job_server_gives_the_same_bytes(clips, local, job_server, tmp_path):
    manifest = preprocess(config(clips, tmp_path), pipeline_args=[*job_server, "--flink_master=[local]"], quiet=True)
    assert manifest.fingerprint == load_manifest(local).fingerprint
    assert shard_bytes(tmp_path) == shard_bytes(local)
    assert len(shard_bytes(local)) > 4


def test_a_cluster_gives_the_same_bytes_and_counts(clips, local, cluster, tmp_path, capfd):
    port, options = cluster
    before = jobs(port)
    preprocess(config(clips, tmp_path), pipeline_args=options)
    assert shard_bytes(tmp_path) == shard_bytes(local)
    assert verify(tmp_path) == []
    assert [state for name, state in jobs(port).items() if name not in before] == ["FINISHED"]
    assert f"{len(clips)} files ({len(clips)} decoded now, none skipped)" in capfd.readouterr().err


def test_a_failure_on_a_cluster_is_our_own_line(cluster, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.wav").write_text(f"no audio {index}")
    with pytest.raises(TfpipeError, match=r"^3 of 3 audio files cannot be used: 3 undecodable; the first is .*0\.wav"):
        preprocess(config_for(tmp_path / "in", tmp_path / "out"), pipeline_args=cluster[1], quiet=True)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_killed_command_ends_its_job_on_the_cluster(clips, cluster, tmp_path):
    port, options = cluster
    before, output = jobs(port), tmp_path / "out"
    shifts = ",".join(str(step / 2) for step in range(60))
    command = ["preprocess", *clips, "--output", output, "--engine", "waveform", "--semitones", shifts]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfpipe", *map(str, command), "--", *options],
        env=environment(),
        stderr=subprocess.DEVNULL,
    )

    def state():
        return next((state for name, state in jobs(port).items() if name not in before), None)

    wait_for(lambda: state() == "RUNNING" and list(output.glob(".work/*/*.tmp-*")))
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    wait_for(lambda: state() == "CANCELED")
    with pytest.raises(TfpipeError, match="no complete dataset"):
        load_manifest(output)
