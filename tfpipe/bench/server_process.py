"""A server in a process of its own, for measurements."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from tfpipe.errors import ServingError
from tfpipe.process import children

_READY_S = 180.0


@contextlib.contextmanager
def server_process(arguments: list[str], *, module: str = "tfpipe") -> Iterator[int]:
    """Runs a server in a process of its own on a free port; yields the gRPC port when the server is ready.

    Args:
        arguments: command line of `tfpipe`, without the port.
        module: module to run instead of `tfpipe`; it must print its port as `tfpipe serve --json` does.

    Raises:
        ServingError: the server ends, or is not ready in time.
    """
    ports = ["--port", "0", "--json"] if module == "tfpipe" else []
    process = subprocess.Popen(
        children.python(["-m", module, *arguments, *ports]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=children.environment(),
    )
    log: list[str] = []
    ready: queue.Queue[str] = queue.Queue()
    readers = [
        threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True),
        threading.Thread(target=lambda: ready.put((process.stdout or sys.stdin).readline()), daemon=True),
    ]
    try:
        for reader in readers:
            reader.start()
        with contextlib.suppress(queue.Empty):
            if line := ready.get(timeout=_READY_S):
                yield int(json.loads(line)["port"])
                return
        last = log[-1].strip() if log else "no message"
        what = "ended" if process.poll() is not None else f"was not ready within {_READY_S:g} s"
        raise ServingError(f"{' '.join(arguments)}: the server {what} ({last})")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join(timeout=5)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
