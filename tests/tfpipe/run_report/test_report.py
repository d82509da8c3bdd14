"""The report of a run: it holds all sections and sounds, loads nothing from elsewhere, and says what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import require_chromium
from pyarrow import parquet
from run_tools import save_run

import tfpipe as tp
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest
from tfpipe.errors import UsageError
from tfpipe.model import networks

SECTIONS = ["Reconstructions", "Draws", "Map", "From one to another", "Latent channels", "Variants", "Figures"]
SECTIONS += ["Worst recordings", "Skipped files", "Settings"]


@pytest.fixture(scope="module")
def run(job_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with untrained networks."""
    models = networks.build("tiny", load_manifest(job_dataset).spec, latent="2x4")
    return save_run(tmp_path_factory.mktemp("untrained") / "run", job_dataset, models, preset="tiny", latent="2x4")


@pytest.fixture(scope="module")
def made(job_dataset: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tp.report` returned."""
    return tp.report(job_dataset, run, out=tmp_path_factory.mktemp("page") / "page.html", quiet=True)


@pytest.fixture(scope="module")
def page(made: dict[str, Any]) -> str:
    return Path(made["report"]).read_text()


def sounds(page: str) -> list[tuple[int, int]]:
    """Returns the length and the rate of every sound in a page."""
    found = re.findall(r"data:audio/mpeg;base64,([A-Za-z0-9+/=]+)", page)
    read = [soundfile.read(io.BytesIO(base64.b64decode(data))) for data in found]
    return [(len(audio), rate) for audio, rate in read]


def test_the_page_has_all_sections_and_a_sound_for_each_picture(page: str, job_dataset: Path) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS  # there is no curve of an untrained run
    assert re.findall(r'<a href="#(.*?)">', page) == [name.lower().replace(" ", "-") for name in SECTIONS]
    assert all(f'<section id="{name.lower().replace(" ", "-")}">' in page for name in SECTIONS)
    spec, points = load_manifest(job_dataset).spec, page.count("<circle")
    pictures, differences = page.count('class="spectrogram"'), page.count('aria-label="difference of')
    assert 0 < differences <= 4
    found = sounds(page)
    assert len(found) == pictures - differences + points
    assert {rate for _, rate in found} == {spec.sample_rate}
    assert {abs(length - spec.samples) < 0.2 * spec.sample_rate for length, _ in found} == {True}  # MP3 pads


def test_a_browser_loads_nothing_from_elsewhere(page: str) -> None:
    assert '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:' in page
    links = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert links
    assert {link.partition(":")[0] if ":" in link else link[:1] for link in links} == {"data", "#"}
    assert not re.findall(r"https?://", page)


def test_every_picture_and_player_has_a_name(page: str) -> None:
    assert page.count("<svg") == len(re.findall(r'<svg[^>]* aria-label="[^"]+', page))
    assert page.count("<audio") == len(re.findall(r'<audio[^>]* aria-label="[^"]+', page))
    assert page.count("<img") == len(re.findall(r'<img[^>]* alt="[^"]+', page))
    assert page.count("<circle") == len(re.findall(r'<circle[^>]* aria-label="[^"]+\.wav, [^"]+ s, [^"]+"', page))


def test_the_windows_of_the_map_are_a_table_too(made: dict[str, Any], page: str) -> None:
    table = parquet.read_table(made["windows"]).to_pydict()
    assert made["mapped"] == len(table["x"]) == page.count("<circle")
    assert made["bytes"] == Path(made["report"]).stat().st_size
    assert set(table) == {"recording", "start_s", "label", "split", "mse", "x", "y", "z"}
    assert set(table["label"]) == {"Human", "Piano"}
    assert {len(z) for z in table["z"]} == {8}
    assert min(table["x"] + table["y"]) == 0.0
    assert max(table["x"] + table["y"]) == 1.0
    listed = json.loads(re.findall(r'id="windows">(.*?)</script>', page)[0])
    for window, recording, split in zip(listed, table["recording"], table["split"], strict=True):
        assert window["name"].startswith(f"{recording}, ")
        assert f", {split}, error " in window["name"]


@pytest.mark.slow
def test_without_its_recordings_the_page_says_so(job_dataset: Path, run: Path, tmp_path: Path, page: str) -> None:
    data = shutil.copytree(job_dataset, tmp_path / "data")
    manifest = json.loads((data / "dataset.json").read_text())
    manifest["config"]["base"] = str(tmp_path / "gone")
    (data / "dataset.json").write_text(json.dumps(manifest))
    tp.report(data, run, out=tmp_path / "page.html", quiet=True)
    without = (tmp_path / "page.html").read_text()
    said = "Some recordings cannot be read any more"
    assert said in without
    assert said not in page
    assert len(sounds(without)) == len(sounds(page))


def test_names_cannot_bring_markup_into_the_page(job_dataset: Path, run: Path, tmp_path: Path) -> None:
    evil = "</script><b>&\"'"
    data = shutil.copytree(job_dataset, tmp_path / "data")
    tracks = [json.loads(line) for line in (data / "tracks.jsonl").read_text().splitlines()]
    (data / "tracks.jsonl").write_text("".join(json.dumps({**row, "path": evil}) + "\n" for row in tracks))
    (data / "skipped.jsonl").write_text(json.dumps({"path": evil, "code": "x", "message": evil}) + "\n")
    tp.report(data, run, out=tmp_path / "page.html", title=evil, quiet=True)
    text = (tmp_path / "page.html").read_text()
    assert "<b>" not in text
    assert text.count("</script>") == 2
    assert "&lt;/script&gt;&lt;b&gt;&amp;&quot;&#x27;" in text


def test_the_command_writes_into_the_run_folder_and_refuses_what_is_no_page(
    job_dataset: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    assert main(["report", "--data", str(job_dataset), "--run", str(own)]) == 0
    assert f"{own}/report.html: " in capsys.readouterr().out
    assert (own / "report-windows.parquet").exists()
    for wrong in ("page.pdf", "page", str(tmp_path)):
        with pytest.raises(UsageError, match=r"ends in \.html"):
            tp.report(job_dataset, own, out=wrong)
    assert main(["report", "--data", str(job_dataset), "--run", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


# Presses what a person would press, and writes into the page what happened.
_PRESS = """<script>
addEventListener("load", async () => {
  const said = [], wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const points = [...document.querySelectorAll("#map circle")], player = document.getElementById("map-player");
  const audio = document.querySelector("audio:not(#map-player)");
  await audio.play(); said.push("first " + !audio.paused);
  points[3].dispatchEvent(new MouseEvent("click", { bubbles: true })); await wait(300);
  said.push("point " + !player.paused, "first stopped " + audio.paused);
  said.push(document.getElementById("map-name").textContent);
  points[3].focus();
  for (const key of ["ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"]) {
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  }
  const now = points.indexOf(document.activeElement);
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true })); await wait(300);
  said.push("moved " + (now >= 0), "playing " + (points[now].classList.contains("playing") && !player.paused));
  said.push("wide " + (document.documentElement.scrollWidth > innerWidth));
  console.log("PRESSED " + said.join(" | "));
});</script></body>"""


@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_points_play_and_the_page_fits_a_phone(
    page: str, made: dict[str, Any], width: int, tmp_path: Path
) -> None:
    path = tmp_path / "pressed.html"
    path.write_text(page.replace("</body>", _PRESS))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--enable-logging=stderr"]
    with subprocess.Popen([require_chromium(), *flags, path.as_uri()], stderr=subprocess.PIPE, text=True) as browser:
        stop = threading.Timer(60.0, browser.kill)
        stop.start()
        assert browser.stderr is not None
        found = next((line for line in browser.stderr if "PRESSED" in line), "PRESSED nothing")
        stop.cancel()
        browser.kill()
    said = found.partition("PRESSED ")[2].partition('", source')[0].split(" | ")
    assert said[:3] == ["first true", "point true", "first stopped true"]
    table = parquet.read_table(made["windows"]).to_pydict()
    assert said[3].startswith(f"{table['recording'][3]}, ")
    assert said[4:] == ["moved true", "playing true", "wide false"]


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(job_dataset: Path, run: Path, tmp_path: Path, made: dict[str, Any]) -> None:
    again = tp.report(job_dataset, run, out=tmp_path / "page.html", quiet=True)
    assert np.isclose(again["bytes"], made["bytes"], rtol=0.01)
    tables = [parquet.read_table(one["windows"]).to_pydict() for one in (made, again)]
    np.testing.assert_allclose(tables[0]["x"], tables[1]["x"], atol=1e-6)
