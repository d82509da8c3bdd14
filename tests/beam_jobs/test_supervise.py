"""The child process of a job: it never outlives its parent, and its end is explained.

`tests/integration/test_s3_job.py` shows that it gives the bytes of a job in this process.
"""

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from helpers import environment
from job_tools import config_for, run_without_beam, write_corpus

from beam_jobs.job import preprocess
from beam_jobs.supervise import _explain_death
from tfpipe.data.manifest import load_manifest
from tfpipe.data.verify import verify
from tfpipe.errors import TfpipeError


@pytest.fixture(scope="session")
def long_corpus(tmp_path_factory):
    """A corpus with enough work that a test can interrupt a job before its end."""
    return write_corpus(tmp_path_factory.mktemp("long"), tracks=3, seconds=40.0)


@pytest.fixture
def marker(monkeypatch):
    """A text in the environment of every process that the test starts, by which `descendants` finds them."""
    value = uuid.uuid4().hex
    monkeypatch.setenv("TFPIPE_TEST", value)
    return value


def descendants(marker):
    """Returns the command lines of the living processes with `marker`, by process number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TFPIPE_TEST={marker}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait_for(condition, *, seconds=150.0):
    """Returns the first true value of `condition()`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def listening(numbers):
    """Returns the addresses, as Linux writes them in hex, at which these processes wait for TCP connections."""
    sockets = set()
    for number in numbers:
        for link in Path(f"/proc/{number}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(link))
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.append(local.partition(":")[0])
    return found


@contextlib.contextmanager
def once_writing(output, act):
    """Calls `act` in a thread as soon as the job in the block writes a shard."""
    ended = threading.Event()

    def watch():
        while not ended.wait(0.02):
            if list(output.glob(".work/*/*.tmp-*")):
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_a_job_whose_command_was_killed_ends_and_the_next_one_reuses_its_work(
    long_corpus, tmp_path, marker, in_process, capsys
):
    output = tmp_path / "out"
    code = "import pickle, sys; from beam_jobs.job import preprocess; preprocess(pickle.load(sys.stdin.buffer))"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment()) as command:
        assert command.stdin is not None
        command.stdin.write(pickle.dumps(config_for(long_corpus, output)))
        command.stdin.close()
        finished = wait_for(lambda: list(output.glob(".work/*/*.tfrecord.json")))[0].with_suffix("")
        kept = finished.stat()
        command.kill()
    wait_for(lambda: not descendants(marker), seconds=30)
    with pytest.raises(TfpipeError, match="no complete dataset"):
        load_manifest(output)

    (finished.parent / "half.tfrecord.tmp-1").write_bytes(b"half")
    resumed = preprocess(config_for(long_corpus, output))
    profile = re.search(r"\((\d+) decoded now.* (\d+) examples \((\d+) computed now\)", capsys.readouterr().err)
    assert profile is not None
    decoded, total, computed = map(int, profile.groups())
    assert decoded == 0
    assert computed < total == sum(shard.examples for shard in resumed.shards)
    assert kept.st_ino in {path.stat().st_ino for path in output.glob("*.tfrecord")}
    assert verify(output) == []
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".tfrecord") == [
        ".lock",
        ".scans.jsonl",
        "croissant.json",
        "dataset.json",
        "skipped.jsonl",
        "tracks.jsonl",
    ]
    clean = run_without_beam(config_for(long_corpus, tmp_path / "clean"))
    assert resumed.fingerprint == clean.fingerprint


@pytest.mark.slow
def test_an_interrupt_ends_every_process(long_corpus, tmp_path, marker):
    output, interrupted = tmp_path / "out", []

    def interrupt():
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with once_writing(output, interrupt), pytest.raises(KeyboardInterrupt):
        preprocess(config_for(long_corpus, output, engine="waveform"), quiet=True)
    assert time.monotonic() - interrupted[0] < 10  # about 1 s on an idle machine; the work left would take longer
    wait_for(lambda: not descendants(marker), seconds=30)
    assert not (output / "dataset.json").exists()


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_job_with_the_cause(long_corpus, tmp_path, marker):
    output = tmp_path / "out"
    workers: list[int] = []
    addresses: list[str] = []

    def kill_a_worker():
        addresses.extend(listening(descendants(marker)))
        workers.extend(number for number, line in descendants(marker).items() if "sdk_worker_main" in line)
        os.kill(workers[0], signal.SIGKILL)

    died = r"a worker process died \(killed, probably for lack of memory\)"
    with once_writing(output, kill_a_worker), pytest.raises(TfpipeError, match=died):
        preprocess(config_for(long_corpus, output, engine="waveform", workers=2), quiet=True)
    assert len(workers) == 2
    # Beam's ports hand out files and take work from anybody, so they must not be reachable from other machines.
    assert len(addresses) >= 4
    # 127.0.0.1, ::1 and ::ffff:127.0.0.1
    assert set(addresses) <= {"0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F"}
    wait_for(lambda: not descendants(marker), seconds=30)


def test_a_child_that_ends_without_a_report_is_explained():
    assert "lack of memory" in _explain_death(-signal.SIGKILL, "")
    assert "status 3 (no space)" in _explain_death(3, "first\nno space\n\n")
    assert "(no message)" in _explain_death(1, "")
