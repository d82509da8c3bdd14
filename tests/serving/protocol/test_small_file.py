"""Small files that a person names: whole files and pipes are read, and nothing waits for a pipe without a writer."""

import os
import subprocess
import threading
import time

import pytest

from serving.protocol import small_file
from serving.protocol.small_file import read_small_file


def test_a_file_is_read_up_to_the_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    assert read_small_file(tmp_path / "x", most=100)[0] == b"0123456789"
    assert read_small_file(tmp_path / "x", most=4)[0] == b"0123"
    with pytest.raises(IsADirectoryError):
        read_small_file(tmp_path, most=4)
    with pytest.raises(FileNotFoundError):
        read_small_file(tmp_path / "none", most=4)


def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def write():
        with open(tmp_path / "pipe", "wb") as pipe:
            for part in (b"one ", b"two ", b"three"):
                pipe.write(part)
                pipe.flush()
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_small_file(tmp_path / "pipe", most=100)[0] == b"one two three"
    writer.join()


def test_a_pipe_without_a_writer_ends_the_start_of_a_server(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(small_file, "_PATIENCE_S", 0.2)
    with pytest.raises(OSError, match="a pipe to which nothing is written"):
        read_small_file(tmp_path / "pipe", most=100)


def test_the_shell_may_give_a_file_as_a_pipe(tmp_path):
    code = "import sys; from serving.protocol.small_file import read_small_file as r; print(r(sys.argv[1], most=99)[0])"
    done = subprocess.run(
        ["bash", "-c", f'python3 -c "{code}" <(sleep 0.2; echo hello)'], capture_output=True, text=True, check=False
    )
    assert done.stdout == "b'hello\\n'\n", done.stderr
