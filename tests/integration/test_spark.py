"""A job on Apache Spark gives the same bytes and errors as a local one, and nothing of it outlives the command."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from engine_tools import config, free_ports, wait_for
from helpers import ROOT, environment
from job_tools import config_for, fetched, shard_bytes

from beam_jobs.job import preprocess
from tfpipe.data.manifest import MANIFEST, load_manifest
from tfpipe.data.verify import verify
from tfpipe.errors import TfpipeError

pytestmark = pytest.mark.slow

RUNS = ROOT / ".spark"


def command(*arguments):
    return {"args": [ROOT / "scripts" / "spark", *map(str, arguments)], "env": environment(PYTHON=sys.executable)}


def spark(*arguments):
    """Runs scripts/spark with this Python."""
    return subprocess.run(**command(*arguments), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def downloaded():
    """Beam's job server with Spark in it, which is downloaded once."""
    fetched(spark)


@pytest.fixture(scope="module")
def options(downloaded):
    """The options for a job server that scripts/spark starts."""
    port = free_ports(1)
    started = spark("start", "--port", port)
    assert started.returncode == 0, started.stderr
    try:
        yield started.stdout.split()
    finally:
        assert spark("stop", "--port", port).returncode == 0
        assert not processes_of(RUNS / f"run-{port}")
        shutil.rmtree(RUNS / f"run-{port}")


def processes_of(folder):
    """Returns the running processes that were started with a folder as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if str(folder).encode() in path.read_bytes() else []
        except OSError:
            continue  # it has ended
    return found


def test_spark_gives_the_same_bytes_and_counts(clips, local, options, tmp_path, capfd):
    manifest = preprocess(config(clips, tmp_path), pipeline_args=options)
    assert manifest.fingerprint == load_manifest(local).fingerprint
    assert shard_bytes(tmp_path) == shard_bytes(local)
    assert len(shard_bytes(local)) > 4
    assert verify(tmp_path) == []
    total = sum(shard.examples for shard in manifest.shards)
    errors = capfd.readouterr().err
    assert f"{len(clips)} files ({len(clips)} decoded now, none skipped)" in errors
    assert f"{total} examples ({total} computed now)" in errors

    # A second job makes only the shard that is missing.
    lost = next(shard for shard in manifest.shards if shard.split == "train")
    (tmp_path / lost.name).unlink()
    preprocess(config(clips, tmp_path), pipeline_args=options)
    assert f"{total} examples ({lost.examples} computed now)" in capfd.readouterr().err
    assert shard_bytes(tmp_path) == shard_bytes(local)


def test_a_failure_on_spark_is_our_own_line(options, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(3):
        (tmp_path / "in" / f"{index}.wav").write_text(f"no audio {index}")
    with pytest.raises(TfpipeError, match=r"^3 of 3 audio files cannot be used: 3 undecodable; the first is .*0\.wav"):
        preprocess(config_for(tmp_path / "in", tmp_path / "out"), pipeline_args=options, quiet=True)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_port_in_use_is_said(downloaded):
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        started = spark("start", "--port", port)
    assert (started.returncode, started.stdout) == (1, "")
    assert started.stderr == f"scripts/spark: port {port} is in use; choose another one with --port\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_spark_ends_with_the_command(clips, downloaded, tmp_path, number):
    before, output = set(RUNS.glob("run-*/pids/command")), tmp_path / "out"

    def started():
        return {path.parents[1] for path in set(RUNS.glob("run-*/pids/command")) - before}

    shifts = ",".join(str(step / 2) for step in range(60))
    job = command("preprocess", *clips, "--output", output, "--engine", "waveform", "--semitones", shifts)
    with subprocess.Popen(**job, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        # Ctrl-C finds Spark at work; the other signal comes while it starts, and nobody can catch that.
        works = number == signal.SIGINT
        wait_for(lambda: process.poll() is not None or (list(output.glob(".work/*/*.tmp-*")) if works else started()))
        assert process.poll() is None
        (run,) = started()
        assert processes_of(run)
        process.send_signal(number)
        # stderr stays open until the last process that writes to it has ended.
        _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}[number], errors
    wait_for(lambda: not processes_of(run) and not processes_of(output))
    # After Ctrl-C the script removes its folder; after a kill it cannot.
    assert run.exists() == (number == signal.SIGKILL)
    assert not list((run / "pids").glob("*"))
    assert "Traceback" not in errors
    assert not (output / MANIFEST).exists()
    shutil.rmtree(run, ignore_errors=True)
