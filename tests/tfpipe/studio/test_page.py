"""The studio's page in Chromium: every action by mouse and keys, on a phone, and when things go wrong."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, open_browser, require_chromium
from studio_tools import running

pytestmark = pytest.mark.slow
FAKE_SOUND = "--use-fake-ui-for-media-stream"


@pytest.fixture(scope="module")
def opened(prior_exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    """The page with its map, and the folder of kept sounds."""
    require_chromium()
    kept = tmp_path_factory.mktemp("page") / "kept"
    with (
        running("--model", str(prior_exported), "--keep", str(kept)) as page,
        open_browser(tmp_path_factory.mktemp("profile"), FAKE_SOUND) as browser,
    ):
        browser.open(f"http://127.0.0.1:{page.port}/")
        browser.wait("document.body.dataset.ready")
        yield browser, kept


@pytest.fixture
def page(opened: tuple[Browser, Path]) -> Iterator[Browser]:
    browser, _ = opened
    yield browser
    assert not browser.errors


def result(page: Browser) -> str:
    return str(page.run("document.querySelector('#result h3')?.textContent ?? ''"))


def make(page: Browser, click: str, *, says: str) -> None:
    """Clicks, and waits until the result is called so."""
    page.click(click)
    page.wait(f"document.querySelector('#result h3')?.textContent.includes({says!r})")


def set_seed(page: Browser, seed: int) -> None:
    """Sets the seed, so that a test that runs again does not depend on what its first run drew."""
    page.run(f"document.getElementById('draw-seed').value = {seed}")


def test_draw_hear_and_keep(page: Browser, opened: tuple[Browser, Path]) -> None:
    page.run("document.getElementById('draw-label').selectedIndex = 1")
    set_seed(page, 1)
    label = page.run("document.getElementById('draw-label').value")
    make(page, "#draw-go", says=f"{label} 1")
    page.wait("document.querySelector('#start .sound')")
    make(page, "#draw-next", says=f"{label} 2")
    page.wait("document.querySelector('#result .sound').players[0].getDuration() > 0")
    page.wait("document.querySelector('#result .sound').players[0].getCurrentTime() > 0")  # it plays by itself
    page.click("#start .sound > button")
    page.wait("document.querySelector('#start .sound').players[0].isPlaying()")
    page.wait("!document.querySelector('#result .sound').players[0].isPlaying()")  # one sound at a time
    page.run("[...document.querySelectorAll('#result button')].find((one) => one.textContent === 'Keep').click()")
    page.wait("document.getElementById('message').textContent.startsWith('Kept as ')")
    _, kept = opened
    assert {path.suffix for path in kept.iterdir()} == {".wav", ".npz", ".txt"}
    assert page.run("document.querySelector('#result pre').textContent").startswith("tfpipe generate --seeds 2 ")


def test_sliders_vary_continue_and_mix(page: Browser) -> None:
    set_seed(page, 2)
    make(page, "#draw-next", says=" 3")
    page.slide("#sliders input", 2.5)
    page.wait("document.querySelector('#result h3').textContent.endsWith('moved')")
    before = page.run("document.getElementById('made').children.length")
    for value in (1.0, 0.5, -1.0, -2.0):  # the newest value wins, and the list keeps one entry
        page.slide("#sliders input", value)
    page.wait("document.getElementById('message').textContent === ''")
    assert page.run("document.getElementById('made').children.length") == before
    make(page, "#vary-go", says="varied")
    make(page, "#continue-go", says="continued")
    assert page.run("document.querySelector('#mix-first').value !== document.querySelector('#mix-second').value")
    page.slide("#mix-share", 0.25)
    page.wait("document.querySelector('#result h3').textContent.includes(' + 25% ')")
    page.wait("document.querySelectorAll('#map .here').length === 2")


def test_points_of_the_map_play_by_mouse_and_keys(page: Browser) -> None:
    make(page, "#map circle:nth-of-type(2)", says="draw ")
    title = page.run("document.querySelector('#map circle:nth-of-type(3) title').textContent")
    page.run("document.querySelector('#map circle:nth-of-type(2)').focus()")
    page.key("ArrowRight")
    page.key("Enter")
    page.wait(f"document.querySelector('#result h3').textContent === {title!r}")


def test_a_recording_is_shown_rebuilt_and_cancelled(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hum & <b>.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        tone = np.sin(np.arange(22050 * 12) * 0.06) * 9000
        file.writeframes(tone.astype("<i2").tobytes())
    page.choose_files("#file", path)
    page.wait("document.querySelectorAll('#start h3').length === 2")
    assert page.run("document.querySelector('#start h3').textContent") == "hum & <b>.wav, 0.0 s, original"
    make(page, "#recording-whole", says="all of it rebuilt")
    page.slide("#recording-start", 3)
    page.click("#recording-window")
    page.wait("document.querySelector('#start h3').textContent.includes(', 3.0 s, original')")


def test_a_microphone_is_recorded(page: Browser) -> None:
    page.click("#record")
    page.wait("document.getElementById('record').textContent === 'Stop'")
    page.run("new Promise((done) => setTimeout(done, 1500))")
    page.click("#record")
    page.wait("document.querySelector('#start h3')?.textContent.startsWith('recording.webm')")


def test_what_goes_wrong_is_said(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no sound")
    page.choose_files("#file", path)
    page.wait("document.getElementById('message').textContent.startsWith('notes.txt: ')")
    assert page.run("document.getElementById('message').className") == "bad"
    page.run("Object.defineProperty(navigator, 'mediaDevices', {value: undefined, configurable: true})")
    page.click("#record")
    page.wait("document.getElementById('message').textContent.startsWith('No recording: ')")
    page.run(
        "delete navigator.mediaDevices; window.kept = window.fetch; window.fetch = () => Promise.reject(new Error())"
    )
    page.click("#draw-go")
    page.wait("document.getElementById('message').textContent.startsWith('The studio does not answer')")
    page.run("window.fetch = window.kept")
    seed = page.run("document.getElementById('draw-seed').value")
    make(page, "#draw-go", says=f" {seed}")  # the page works again


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_it_fits_and_can_be_used_by_ear_and_keys(page: Browser, width: int, dark: bool, tmp_path: Path) -> None:
    page.look(tmp_path / "page.png", width=width, dark=dark)
    assert not page.is_wide()
    assert (tmp_path / "page.png").stat().st_size > 20_000
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, a, circle[role]')]"
        ".filter((one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length))"
        ".map((one) => one.outerHTML.slice(0, 99))"
    )
    assert nameless == []
