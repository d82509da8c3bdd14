"""h2spec (github.com/summerwind/h2spec), which tries what RFC 9113 and RFC 7541 say, on the compiled gRPC server."""

import os
import re
import shutil
import subprocess

import pytest
from quick_server import quick_server
from serving_tools import native

# Of 145. docs/SERVING.md says what two others are. Three more send what is wrong after headers that are answered at
# once, so which frame comes first depends on time.
PASSES = 140


@pytest.fixture(scope="module")
def h2spec(tmp_path_factory):
    """The program, installed if it is not and Go is there."""
    if found := shutil.which("h2spec"):
        return found
    if not shutil.which("go"):
        pytest.skip("neither h2spec nor Go is installed")
    folder = tmp_path_factory.mktemp("go")
    command = ["go", "install", "github.com/summerwind/h2spec/cmd/h2spec@latest"]
    done = subprocess.run(
        command, env={**os.environ, "GOBIN": str(folder)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"h2spec cannot be installed: {done.stderr[-200:]}")
    return str(folder / "h2spec")


@native
@pytest.mark.slow
def test_the_native_server_speaks_http2_as_its_documents_say(h2spec, tmp_path, monkeypatch):
    with quick_server(tmp_path, monkeypatch, grpc_front_end="native") as (server, _):
        command = [h2spec, "-h", "127.0.0.1", "-p", str(server.port), "--timeout", "10"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    [(passed, skipped, failed)] = re.findall(r"(\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    assert int(passed) >= PASSES, done.stdout[done.stdout.index("Failures") :]
    assert (int(skipped), int(failed)) == (0, 145 - int(passed))
