"""Starts and stops the processes of tf.data service on this machine: `tfpipe data-service`.

Each process is a dispatcher with one worker (`tfpipe.data.data_service`). The processes outlive the command
that starts them. Their process ids, addresses and logs are kept in a folder of this user under the system's
folder for temporary files, one folder for each port. Loads no TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.process import children

# Number of processes, port of the first one, and name of this machine, unless others are asked for.
WORKERS, PORT, HOST = 2, 5050, "localhost"
_MODULE = "tfpipe.data.data_service"
_START_S = 120.0
_POLL_S = 0.2
_MOST_WORKERS = 999


def start(*, workers: int = WORKERS, port: int = PORT, host: str = HOST) -> list[str]:
    """Starts the processes and waits until each is ready.

    Args:
        workers: number of processes.
        port: port of the first dispatcher; the others take the ports after it.
        host: name of this machine, as the training process knows it.

    Returns:
        The addresses, `grpc://HOST:PORT`.

    Raises:
        UsageError: a setting is out of range.
        TfpipeError: processes on this port run already, or one does not start.
    """
    _require_port(port)
    if not 1 <= workers <= _MOST_WORKERS:
        raise UsageError(f"workers={workers} is out of range; use 1 to {_MOST_WORKERS}")
    if port + workers - 1 > 65_535:
        raise UsageError(f"port={port} leaves no room for {workers} ports; use a lower one")
    if not re.fullmatch(r"[A-Za-z0-9.-]+", host):
        raise UsageError(f"host={host!r} is not a machine name; use letters, digits, dots and dashes")
    folder = _folder(port)
    if any(_is_ours(file) for file in folder.glob("*.pid")):
        raise TfpipeError(
            f"the data service already runs on port {port}; use it, or end it with `tfpipe data-service stop "
            f"--port {port}`"
        )
    stop(port=port)
    ports = range(port, port + workers)
    started = {at: _launch(folder, at, host) for at in ports}
    try:
        return [_address(folder, at, process) for at, process in started.items()]
    except BaseException:
        stop(port=port)
        raise


def stop(*, port: int = PORT) -> None:
    """Ends the processes that `start` started on this port; does nothing when none runs.

    Raises:
        UsageError: the port is out of range.
    """
    _require_port(port)
    for file in _folder(port).glob("*.pid"):
        if _is_ours(file):
            _kill(int(file.read_text()))
        file.unlink()
        file.with_suffix(".address").unlink(missing_ok=True)


def process_ids(port: int) -> dict[int, int]:
    """Returns the process id of each port of the service whose first port is `port`."""
    return {int(file.stem): int(file.read_text()) for file in sorted(_folder(port).glob("*.pid")) if _is_ours(file)}


def _launch(folder: Path, port: int, host: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", _MODULE, "--port", str(port), "--host", host]
    variables = {"TF_CPP_MIN_LOG_LEVEL": "2", **children.environment()}
    with open(folder / f"{port}.address", "wb") as address, open(folder / f"{port}.log", "wb") as log:
        # In a session of its own, so that Ctrl-C in this terminal does not reach it.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=address, stderr=log, env=variables, start_new_session=True
        )
    (folder / f"{port}.pid").write_text(str(process.pid))
    return process


def _kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # raised unless this process started it
        os.waitpid(process_id, 0)


def _address(folder: Path, port: int, process: subprocess.Popen[bytes]) -> str:
    """Waits until a process has written its address."""
    log = folder / f"{port}.log"
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if (address := (folder / f"{port}.address").read_text()).endswith("\n"):
            process.returncode = 0  # so that Popen does not warn: the process is meant to outlive this one
            return address.strip()
        if process.poll() is not None:
            telling = [line for line in log.read_text().splitlines() if re.search("Error|in use|[Ff]ailed", line)]
            why = telling[-1][:300] if telling else f"it ended with status {process.returncode}"
            raise TfpipeError(f"data service on port {port}: {why}; see {log}")
        time.sleep(_POLL_S)
    raise TfpipeError(f"data service on port {port}: not ready after {_START_S:.0f} s; see {log}")


def _folder(port: int) -> Path:
    """Returns this user's folder for one port; refuses one that another user has made."""
    top = Path(tempfile.gettempdir()) / f"tfpipe-data-service-{os.getuid()}"
    top.mkdir(mode=0o700, exist_ok=True)
    if top.is_symlink() or top.stat().st_uid != os.getuid():
        raise TfpipeError(f"{top}: belongs to another user; set TMPDIR to a folder of your own")
    folder = top / str(port)
    folder.mkdir(exist_ok=True)
    return folder


def _is_ours(file: Path) -> bool:
    """Tells whether the recorded process still runs. Its id may meanwhile belong to another program."""
    try:
        return _MODULE.encode() in Path(f"/proc/{int(file.read_text())}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def _require_port(port: int) -> None:
    if not 1 <= port <= 65_535:
        raise UsageError(f"port={port} is out of range; use 1 to 65535")
