"""The clients in Go and JavaScript: they get the sounds that the client in Python gets from the same server."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from once import make_once

EXAMPLES = Path(__file__).parents[2] / "examples"
# The oldest version of Node that has what the client uses: `fetch` and `parseArgs`.
_NODE = (18, 3)


@pytest.fixture(scope="session")
def go_client(tmp_path_factory):
    """The compiled client; the tests that need it are skipped without Go or without its modules."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go")

    def build(folder):
        # In a copy, so that nothing is written into the checkout.
        source = shutil.copytree(EXAMPLES / "go", folder / "source")
        if subprocess.run([go, "mod", "download"], cwd=source, check=False, capture_output=True).returncode:
            return
        for command in (["vet", "./..."], ["build", "-mod=readonly", "-o", folder / "client", "."]):
            done = subprocess.run([go, *command], cwd=source, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr

    built = make_once(tmp_path_factory, "go_client", build) / "client"
    if not built.exists():
        pytest.skip("the Go modules cannot be downloaded")
    return [str(built)]


@pytest.fixture(scope="session")
def javascript_client():
    """The command that runs the client; the tests that need it are skipped without Node."""
    node = shutil.which("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout if node else "v0"
    if node is None or tuple(int(part) for part in version[1:].split(".")[:2]) < _NODE:
        pytest.skip("needs Node 18.3 or newer")
    return [node, str(EXAMPLES / "javascript" / "client.mjs")]


@pytest.fixture(params=["go", "javascript"])
def call(request):
    """Runs a client with options, against a server or, if there is none, an address where nobody listens."""
    command = request.getfixturevalue(f"{request.param}_client")

    def run(server, **options):
        port = 9 if server is None else server.port if request.param == "go" else server.rest_port
        address = f"127.0.0.1:{port}" if request.param == "go" else f"http://127.0.0.1:{port}"
        options = {"server": address, **options}
        dashes = "-" if request.param == "go" else "--"
        words = [text for name, value in options.items() for text in (f"{dashes}{name}", str(value))]
        return subprocess.run([*command, *words], capture_output=True, text=True, timeout=90, check=False)

    return run


def test_it_draws_what_the_python_client_draws(call, prior_server, prior_client, tmp_path):
    done = call(prior_server, label="Piano", seed=7, out=tmp_path / "piano.wav")
    assert done.returncode == 0, done.stderr
    wav = (tmp_path / "piano.wav").read_bytes()
    assert f"({len(wav)} bytes)" in done.stdout
    assert wav == prior_client.generate_wav([7], label="Piano")[0]
    assert wav != prior_client.generate_wav([7], label="Human")[0]
    audio, rate = soundfile.read(io.BytesIO(wav))
    assert (len(audio), rate) == (prior_client.spec().samples, prior_client.spec().sample_rate)
    assert np.sqrt(np.mean(audio**2)) > 1e-3


def test_a_model_without_a_learned_prior_draws_without_a_label(call, server, client, tmp_path):
    assert call(server, out=tmp_path / "out.wav").returncode == 0
    assert (tmp_path / "out.wav").read_bytes() == client.generate_wav([1])[0]
    done = call(server, label="Piano", out=tmp_path / "label.wav")
    assert done.returncode == 1
    assert "with a model that has a learned prior" in done.stderr
    assert not (tmp_path / "label.wav").exists()


def test_it_sends_a_recording_through_the_model(call, server, client, recordings, tmp_path):
    done = call(server, recording=recordings[0], out=tmp_path / "rebuilt.wav")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rebuilt.wav").read_bytes() == client.reconstruct_wav(recordings[0].read_bytes())


def test_what_is_wrong_is_said_in_a_line(call, prior_server, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    for server, options, says in (
        (None, {}, r"127\.0\.0\.1:9.*: no answer .*; start `tfpipe serve`, or give its -{1,2}server"),
        (prior_server, {"label": "Pano"}, r"Pano.*; leave -{1,2}label out, or use one of .*Human.*Piano"),
        (prior_server, {"recording": tmp_path / "text.wav"}, r"signature reconstruct_wav.*RIFF"),
        (prior_server, {"recording": tmp_path / "none.wav"}, r"none\.wav"),
        (prior_server, {"model": "other"}, r"other"),
    ):
        done = call(server, **options, out=tmp_path / "out.wav")
        assert done.returncode == 1, options
        assert re.fullmatch(rf"error: .*{says}.*\n", done.stderr), done.stderr
    assert not (tmp_path / "out.wav").exists()
