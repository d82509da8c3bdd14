"""`tfpipe browse`: which examples it finds, what they sound like, what it refuses, and its page in Chromium."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from browser import open_browser, require_chromium
from studio_tools import Page, running

from tfpipe.audio.reader import read_window
from tfpipe.browse import examples as module
from tfpipe.browse.examples import Examples
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest, load_tracks, read_examples
from tfpipe.errors import DatasetError, UsageError
from tfpipe.features.log_mel import dequantise, log_mel


def test_tracks_are_found_by_name_split_and_label(dataset: Path) -> None:
    examples, tracks = Examples(dataset), load_tracks(dataset)
    assert examples.find().total == len(tracks)
    for split in ("train", "validation", "test"):
        assert examples.find(split=split).tracks == [track for track in tracks if track.split == split]
    label = tracks[0].label
    assert examples.find(label=label).tracks == [track for track in tracks if track.label == label]
    name = Path(tracks[-1].path).stem
    assert tracks[-1] in examples.find(name.upper()).tracks
    assert examples.find("no such name").total == 0
    assert examples.find(first=1).tracks == tracks[1:]


def test_the_examples_of_each_track_are_those_of_the_shards(dataset: Path) -> None:
    examples = Examples(dataset)
    stored = {example.key: example for _, example in read_examples(dataset, load_manifest(dataset))}
    found = {}
    for track in load_tracks(dataset):
        of_track = examples.of_track(track.hash[:16])
        assert len(of_track) == track.windows * track.variants
        assert next(iter(of_track)).endswith("/000000000000/original")
        found.update(of_track)
    assert set(found) == set(stored)
    assert all(np.array_equal(found[key].mel, stored[key].mel) for key in stored)


def test_few_examples_are_held_and_shown(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRACKS", 2)
    monkeypatch.setattr(module, "MOST_EXAMPLES", 2)
    examples = Examples(dataset)
    assert {len(examples.of_track(track.hash[:16])) for track in load_tracks(dataset)} == {2}
    assert len(examples._held) == 2


def test_what_is_not_there_is_said(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = Examples(dataset)
    for key in ("", "zz", "0" * 16):
        with pytest.raises(UsageError, match="no track of this dataset"):
            examples.of_track(key)
    track = load_tracks(dataset)[0].hash[:16]
    with pytest.raises(UsageError, match="no example with the key"):
        examples.example(f"{track}/000000000001/original")
    broken = shutil.copytree(dataset, tmp_path / "broken")
    for path in broken.glob("*.tfrecord"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=r"breaks off|damaged"):
        [Examples(broken).of_track(track.hash[:16]) for track in load_tracks(broken)]
    for path in broken.glob("*.tfrecord"):
        path.unlink()
    with pytest.raises(Exception, match="no such file"):
        Examples(broken).of_track(track)
    assert main(["browse", str(tmp_path), "--no-browser"]) == 1
    assert "no complete dataset here" in capsys.readouterr().err


def test_sounds_are_the_window_and_its_inversion(dataset: Path) -> None:
    examples, manifest = Examples(dataset), load_manifest(dataset)
    track = load_tracks(dataset)[0]
    key, example = next(iter(examples.of_track(track.hash[:16]).items()))
    recorded = examples.recorded(key)
    assert recorded is not None
    path = Path(manifest.config["base"]) / track.path
    assert np.array_equal(recorded, read_window(path, start_s=float(example.start_s), spec=manifest.spec))
    inverted = examples.inverted(example)
    assert inverted.shape == (manifest.spec.samples,)
    again = log_mel(inverted.astype(np.float64), manifest.spec).mel
    assert np.abs(again - dequantise(example.mel)).mean() < 0.03
    assert examples.recorded(key.replace("original", "shift+7")) is None


@pytest.fixture(scope="module")
def page(dataset: Path) -> Iterator[Page]:
    with running(str(dataset), command="browse") as opened:
        yield opened


@pytest.mark.slow
def test_the_program_answers_and_refuses(page: Page, dataset: Path) -> None:
    status, facts, headers = page.ask("GET", "/api/dataset")
    assert (status, facts["labels"]) == (200, list(load_manifest(dataset).labels))
    assert headers["content-security-policy"].startswith("default-src 'self';")
    _, found, _ = page.ask("GET", "/api/tracks?split=train")
    key = found["tracks"][0]["key"]
    _, shown, _ = page.ask("GET", f"/api/tracks/{key}")
    example = shown["examples"][0]
    for kind in ("inverted", "recorded"):
        status, wav, _ = page.ask("GET", f"/sounds/{kind}/{example['key']}.wav")
        audio, _ = soundfile.read(io.BytesIO(wav))
        assert status == 200
        assert len(audio) == load_manifest(dataset).spec.samples
    for path, code, text in (
        ("/api/tracks?first=x", 400, "not a number"),
        ("/api/tracks/zz", 400, "no track"),
        (f"/sounds/other/{example['key']}.wav", 400, "no sound of the kind"),
        (f"/sounds/recorded/{quote(shown['examples'][1]['key'])}.wav", 400, "cannot be read any more"),
        ("/static/../app.py", 404, ""),
    ):
        status, answer, _ = page.ask("GET", path)
        assert status == code
        assert text in str(answer)
    assert page.ask("GET", "/api/dataset", Host="evil.example")[0] == 403


@pytest.mark.slow
def test_its_page_shows_and_plays(page: Page, tmp_path: Path) -> None:
    require_chromium()
    with open_browser(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{page.port}/")
        browser.wait("document.body.dataset.ready")
        total = browser.run("document.querySelectorAll('#tracks button').length")
        browser.run("document.getElementById('split').selectedIndex = 1")
        browser.run("document.getElementById('split').dispatchEvent(new Event('change'))")
        browser.wait(f"document.querySelectorAll('#tracks button').length < {total}")
        browser.click("#tracks button")
        browser.wait("document.querySelectorAll('#examples svg').length > 1")
        browser.click("#examples article button")
        browser.wait("document.querySelector('#examples article button').textContent === 'Stop'")
        browser.wait("document.querySelector('#examples article button').textContent === 'Play'")  # it has ended
        assert browser.run("document.getElementById('message').textContent") == ""
        browser.run("document.getElementById('variant').value = 'original'")
        browser.run("document.getElementById('variant').dispatchEvent(new Event('change'))")
        browser.wait(
            "[...document.querySelectorAll('#examples h3')].every((one) => one.textContent.endsWith('original'))"
        )
        for width in (390, 1280):
            browser.look(tmp_path / f"{width}.png", width=width)
            assert not browser.is_wide()
        assert not browser.errors
