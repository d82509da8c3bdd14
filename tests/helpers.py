"""What several test modules share: running the command line as a user does."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def slow(*values: Any) -> Any:
    """Returns values of `pytest.mark.parametrize` with which only the slow suite runs a test."""
    return pytest.param(*values, marks=pytest.mark.slow)


def environment(**extra: str) -> dict[str, str]:
    """An environment in which a child process imports this checkout and keeps quiet."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **extra}


def tfpipe(*arguments: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "tfpipe", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(**extra),
        timeout=280,
        check=False,
    )


def last_json(done: subprocess.CompletedProcess[str]) -> dict:
    """Parses the last line of stdout; a failed command shows its own message."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


class _Ranges(SimpleHTTPRequestHandler):
    """Serves a folder, and parts of files if `ranges`; if `truncate`, it sends half of a shard."""

    truncate, ranges = False, True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "") if self.ranges else "")
        first = int(asked[1]) if asked else 0
        body = data[first : int(asked[2]) + 1 if asked and asked[2] else None]
        self.send_response(200 if not asked else 206 if body else 416)
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.truncate and path.suffix == ".tfrecord" else body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def web_server(folder: Path, *, truncate: bool = False, ranges: bool = True) -> Iterator[str]:
    """Serves a folder, with Range requests or, as many servers do, without; yields its URL."""
    kind = type("Handler", (_Ranges,), {"truncate": truncate, "ranges": ranges})
    handler = functools.partial(kind, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
