"""The studio as a program: its web server, what it refuses, whole recordings, a model on a server."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from serving_tools import start_server
from studio_tools import Page, running

from serving.server.config import ServerConfig
from serving.server.server import Server
from tfpipe.process import children


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio") / "kept"


@pytest.fixture(scope="module")
def page(prior_exported: Path, kept: Path) -> Iterator[Page]:
    with running("--model", str(prior_exported), "--keep", str(kept)) as opened:
        yield opened


def draw(page: Page, **asked: Any) -> dict[str, Any]:
    status, found, _ = page.ask("POST", "/api/act/draw", asked)
    assert status == 200, found
    [sound] = found["sounds"]
    return dict(sound)


def test_a_sound_is_made_played_in_parts_downloaded_and_kept(page: Page, kept: Path) -> None:
    sound = draw(page, seed=3)
    status, wav, headers = page.ask("GET", f"/sounds/{sound['key']}.wav", Range="bytes=0-99")
    assert (status, len(wav), headers["content-range"].split("/")[0]) == (206, 100, "bytes 0-99")
    status, wav, headers = page.ask("GET", f"/sounds/{sound['key']}.wav?download")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="draw-3.wav"')
    audio, rate = soundfile.read(io.BytesIO(wav))
    assert len(audio) / rate == pytest.approx(sound["seconds"], abs=0.01)
    assert np.abs(audio).max() > 0.01
    status, packed, _ = page.ask("GET", f"/sounds/{sound['key']}.npz")
    assert status == 200
    assert np.load(io.BytesIO(packed))["z_mean"].shape[0] == 1
    assert 'role="img"' in sound["picture"]
    status, answer, _ = page.ask("POST", f"/api/sounds/{sound['key']}/keep", {})
    assert (status, answer["path"]) == (200, str(kept / "draw-3.wav"))


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    status, text, headers = page.ask("GET", "/")
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'self';")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text.decode())
    assert {"/static/studio.js", "/static/studio.css", "/shared/page.css"} <= set(loaded)
    for path in loaded:
        assert path == "data:," or page.ask("GET", path)[0] == 200
    script = page.ask("GET", "/static/studio.js")[1].decode()
    assert re.findall(r'from "(.*?)"', script) == ["./wavesurfer.esm.js"]
    assert page.ask("GET", "/static/wavesurfer.esm.js")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/model", "/static/studio.js"])
def test_pages_of_other_sites_are_refused(page: Page, path: str, headers: dict[str, str]) -> None:
    status, answer, _ = page.ask("GET", path, **headers)
    assert status == 403
    assert "open" in answer["error"]


def test_its_own_page_is_let_in(page: Page) -> None:
    own = f"http://127.0.0.1:{page.port}"
    assert page.ask("POST", "/api/act/draw", {"seed": 1}, Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert page.ask("GET", "/api/model", Host=f"localhost:{page.port}")[0] == 200


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "says"),
    [
        ("POST", "/api/act/draw", b"{", 400, "is not a JSON object"),
        ("POST", "/api/act/draw", b"[" * 60_000, 400, "is not a JSON object"),
        ("POST", "/api/act/draw", b"[1]", 400, "is not a JSON object"),
        ("POST", "/api/act/draw", b" " * 70_000, 400, "too long"),
        ("POST", "/api/act/draw", {"seed": "x"}, 400, "seed is not a whole number"),
        ("GET", "/sounds/s999.wav", None, 400, "no longer here"),
        ("GET", "/sounds/..%2f..%2fetc%2fpasswd.wav", None, 404, ""),
        ("GET", "/static/../studio.py", None, 404, ""),
        ("GET", "/api/jobs/j9", None, 400, "start it again"),
        ("POST", "/api/jobs", {"file": "f9"}, 400, "drop it again"),
        ("POST", "/api/files?name=a.mp3", b"no sound" * 999, 422, "a.mp3: "),
        ("POST", "/api/files?name=a.wav", b"", 422, "a.wav: "),
    ],
)
def test_bad_requests_are_answered_in_words(
    page: Page, verb: str, path: str, body: Any, status: int, says: str
) -> None:
    found, answer, _ = page.ask(verb, path, body)
    assert found == status, answer
    assert says in (answer["error"] if isinstance(answer, dict) else answer.decode())


def finished(page: Page, job: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + 60
    while job["state"] in ("waiting", "running"):
        assert time.monotonic() < until
        time.sleep(0.05)
        job = page.ask("GET", f"/api/jobs/{job['job']}")[1]
    return job


def send(page: Page, seconds: float) -> dict[str, Any]:
    """Sends noise as a recording."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).standard_normal(round(seconds * 22050)) * 0.1
    soundfile.write(buffer, noise, 22050, format="WAV")
    status, found, _ = page.ask("POST", "/api/files?name=long.wav", buffer.getvalue())
    assert status == 200, found
    assert found["seconds"] == pytest.approx(seconds, abs=0.01)
    return dict(found)


@pytest.mark.slow
def test_a_whole_recording_is_rebuilt_with_progress_and_can_be_cancelled(page: Page) -> None:
    file = send(page, 20.0)
    job = finished(page, page.ask("POST", "/api/jobs", {"file": file["file"]})[1])
    assert (job["state"], job["error"]) == ("done", "")
    assert job["done"] == job["total"] > 3
    assert job["sound"]["seconds"] == pytest.approx(20.0, abs=0.01)
    assert page.ask("GET", f"/sounds/{job['sound']['key']}.wav")[0] == 200

    long = send(page, 600.0)
    job = page.ask("POST", "/api/jobs", {"file": long["file"]})[1]
    assert draw(page, seed=1)["key"]  # other actions get their turn
    page.ask("DELETE", f"/api/jobs/{job['job']}")
    ended = finished(page, job)
    assert ended["state"] == "cancelled"
    assert ended["sound"] is None


@pytest.mark.slow
def test_a_model_on_a_server_that_goes_away_and_comes_back(prior_exported: Path, tmp_path: Path) -> None:
    server = start_server(prior_exported.parent)
    config = ServerConfig(model_base_path=prior_exported.parent, port=server.port, rest_api_port=-1)
    try:
        with running("--server", f"127.0.0.1:{server.port}", "--keep", str(tmp_path)) as page:
            command = draw(page, seed=2)["recipe"]["command"]
            assert command.startswith("tfpipe client generate --seeds 2 ")
            assert f"--server 127.0.0.1:{server.port}" in command
            assert len(page.ask("GET", "/api/space")[1]["points"]) > 4
            server.stop(grace_s=1)
            status, answer, _ = page.ask("POST", "/api/act/draw", {"seed": 2})
            assert (status, "works again when the server does" in answer["error"]) == (503, True)
            server = Server(config)
            server.start()
            assert draw(page, seed=2)["title"] == "draw 2"
    finally:
        server.stop(grace_s=1)


@pytest.mark.slow
def test_temporary_files_go_with_the_studio_or_with_the_next_one(prior_exported: Path, tmp_path: Path) -> None:
    arguments = ("--model", str(prior_exported), "--keep", str(tmp_path / "kept"))
    left = []
    for end in (signal.SIGKILL, signal.SIGTERM):
        with running(*arguments, end=end, folder=tmp_path) as page:
            send(page, 1.0)
            [folder] = tmp_path.glob("tfpipe-studio-*")
            assert [path.name for path in folder.iterdir()] == ["f1.wav"]
        left.append([path.name for path in tmp_path.iterdir()])
    assert [len(names) for names in left] == [1, 0]


@pytest.mark.slow
def test_several_tabs_get_their_own_sounds(page: Page) -> None:
    start = draw(page, seed=9)["key"]

    def moved(amount: float) -> str:
        status, found, _ = page.ask("POST", "/api/act/move", {"sound": start, "amounts": [amount]})
        assert status == 200, found
        return str(found["sounds"][0]["key"])

    amounts = [-2.0, -1.0, 0.0, 1.0, 2.0] * 2
    with ThreadPoolExecutor(len(amounts)) as tabs:
        keys = list(tabs.map(moved, amounts))
    assert len(set(keys)) == len(keys)
    latents = [np.load(io.BytesIO(page.ask("GET", f"/sounds/{key}.npz")[1]))["z_mean"][0] for key in keys]
    way = latents[4] - latents[0]
    np.testing.assert_allclose([z @ way for z in latents[:5]], [z @ way for z in latents[5:]], rtol=1e-5)
    assert sorted(amounts[:5], key=lambda amount: latents[amounts.index(amount)] @ way) == amounts[:5]


@pytest.mark.slow
def test_wrong_arguments_end_it_with_a_line(prior_exported: Path, page: Page, tmp_path: Path) -> None:
    model = ["--model", str(prior_exported)]
    (tmp_path / "file").touch()
    for arguments, says in [
        ([*model, "--port", str(page.port)], "choose another port"),
        ([*model, "--port", "70000"], "choose another port"),
        ([*model, "--keep", str(tmp_path / "file")], "is a file; choose a folder"),
        (["--model", str(tmp_path)], "no exported model here"),
        ([], "one of the arguments --model --server is required"),
    ]:
        command = children.python(["-m", "tfpipe", "studio", "--no-browser", *arguments])
        done = subprocess.run(
            command, env=children.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2 or "no exported" in says
        assert says in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
