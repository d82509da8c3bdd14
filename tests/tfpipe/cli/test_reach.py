"""A port at which no server listens is named within seconds."""

import socket
import threading
import time

import pytest

from tfpipe.cli import reach
from tfpipe.cli.main import main
from tfpipe.cli.reach import require_listening
from tfpipe.errors import ServingError, UsageError


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in reach._PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return f"127.0.0.1:{reserved.getsockname()[1]}"


@pytest.mark.parametrize("command", ["client status --server {}", "check-server {}", "check-server {open} --rest {}"])
def test_a_closed_port_is_one_line_that_names_it_and_the_fix(command, closed, capsys, monkeypatch):
    monkeypatch.setattr(reach, "_BETWEEN_TRIES_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listens:
        opened = f"127.0.0.1:{listens.getsockname()[1]}"
        started = time.monotonic()
        assert main([*command.format(closed, open=opened).split(), "--wait-s", "0.1"]) == 1
    assert time.monotonic() - started < 5.0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tfpipe: {closed}: no server listens there; start it with `tfpipe serve")
    assert "--wait-s" in line


def test_without_an_option_it_waits_no_longer_than_five_seconds():
    assert reach.WAIT_S <= 5.0


def test_a_server_that_is_starting_is_waited_for_and_that_is_said(closed, capsys):
    host, _, port = closed.partition(":")
    opened: list[socket.socket] = []

    def start() -> None:
        time.sleep(0.4)
        opened.append(socket.create_server((host, int(port))))

    starter = threading.Thread(target=start)
    starter.start()
    try:
        require_listening(closed, wait_s=20.0)
    finally:
        starter.join()
        opened[0].close()
    assert capsys.readouterr().err == f"{closed}: no server listens there yet; trying for 20 s\n"


def test_a_socket_file_and_a_name_that_nobody_has(tmp_path):
    with pytest.raises(ServingError, match="no server listens there"):
        require_listening(f"unix:{tmp_path}/none", wait_s=0.0)
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(f"{tmp_path}/s")
        listens.listen()
        require_listening(f"unix:{tmp_path}/s", wait_s=0.0)
    with pytest.raises(ServingError, match=r"nobody\.invalid:8500: no host has this name"):
        require_listening("nobody.invalid:8500", wait_s=0.0)


def test_a_wait_that_is_no_number_ends(closed):
    with pytest.raises(ServingError, match="no server listens"):
        require_listening(closed, wait_s=float("nan"))


def test_an_address_without_a_port_is_refused():
    with pytest.raises(UsageError, match=r"localhost: has no port; use HOST:PORT, such as localhost:8500"):
        require_listening("localhost", wait_s=0.0)


def test_what_a_proxy_reaches_is_left_to_grpc(closed, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "")
    require_listening(closed, wait_s=0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ServingError, match="no server listens"):
        require_listening(closed, wait_s=0.0)
