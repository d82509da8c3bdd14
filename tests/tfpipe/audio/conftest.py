"""Fixtures for the tests that read recordings."""

from pathlib import Path

import pytest
from audio_files import SECONDS, write_any

from tfpipe.audio import ffmpeg, libsndfile


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    """Divides Opus and the formats of FFmpeg every 2 s instead of 30, so that short files have several segments."""
    for module in (ffmpeg, libsndfile):
        monkeypatch.setattr(module, "SEGMENT_S", 2)


@pytest.fixture
def few_kept_blocks(monkeypatch):
    """Lets the decoder keep 4 blocks instead of 16, so that a short MP3 is longer than what is kept."""
    monkeypatch.setattr(libsndfile, "_KEPT_BLOCKS", 4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Returns a function that makes a file of each format once; tests must not change it."""
    folder = tmp_path_factory.mktemp("recorded")
    made: dict[str, Path] = {}

    def get(name):
        if name not in made:
            made[name] = write_any(folder / str(len(made)), name, seconds=SECONDS.get(name, 6))
        return made[name]

    return get
