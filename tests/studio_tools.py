"""Runs `tfpipe studio` or `tfpipe browse`, and asks it as its page does."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfpipe.process import children


class Page:
    """Sends requests as the page does."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Returns the status, the body (JSON is read), and the headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(verb, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text, found = answer.read(), dict(answer.getheaders())
        connection.close()
        return answer.status, json.loads(text) if "json" in found.get("content-type", "") else text, found


@contextlib.contextmanager
def running(
    *arguments: str, command: str = "studio", end: int = signal.SIGINT, folder: Path | None = None
) -> Iterator[Page]:
    """Runs a command with a page on a free port, and ends it with a signal; temporary files are in `folder`."""
    line = children.python(["-m", "tfpipe", command, *arguments, "--port", "0", "--no-browser"])
    variables = {**children.environment(), **({"TMPDIR": str(folder)} if folder else {})}
    with subprocess.Popen(line, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
            assert found, said + process.stderr.read()
            yield Page(int(found[1]))
        finally:
            process.send_signal(end)
            assert process.wait(timeout=30) == (-end if end == signal.SIGKILL else 0)
