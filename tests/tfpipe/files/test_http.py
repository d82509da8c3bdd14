"""Reading http:// with the standard library."""

import errno

import pytest
from helpers import web_server

from tfpipe.files import http, remote


@pytest.fixture
def web(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 10)
    with web_server(tmp_path) as address:
        yield address


def test_a_file_is_read_and_its_size_is_known(web):
    with remote.open_read(f"{web}/a.bin") as file:
        assert file.read() == bytes(range(256)) * 10
    assert remote.stamp(f"{web}/a.bin") == (2560, 0)
    assert remote.exists(f"{web}/a.bin")
    assert http.gives_ranges(f"{web}/a.bin")


def test_a_missing_file_is_no_file(web):
    assert not remote.exists(f"{web}/gone")
    with pytest.raises(FileNotFoundError, match="the server answers 404") as caught:
        remote.open_read(f"{web}/gone")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, f"{web}/gone")


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(OSError, match=r"out of reach .* check the address and the network"):
        http.stamp("http://127.0.0.1:9/a")


def test_a_connection_that_ends_early_is_an_error(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(bytes(1000))
    with (
        web_server(tmp_path, truncate=True) as address,
        http.open_read(f"{address}/a.tfrecord") as file,
        pytest.raises(OSError, match="out of reach"),
    ):
        file.read()


def test_folders_of_the_web_cannot_be_listed(web):
    assert remote.sizes(web) == {}
