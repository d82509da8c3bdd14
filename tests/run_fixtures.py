"""One finished `tfpipe run` that several tests read."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from once import make_once

from tfpipe.audio.wav import write_wav

# Settings with which the whole chain needs little time; the options of `tests/integration/test_run.py` say the same.
QUICK_SETTINGS: dict[str, Any] = {"preset": "tiny", "epochs": 2, "prior_steps": 20, "semitones": (0, 7), "chords": ()}


@pytest.fixture(scope="session")
def few_recordings(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 10.5 s of three clips of one label, of which one is held out, and of one clip of another label."""

    def write(folder: Path) -> None:
        for label, count in zip(sorted(path for path in small_corpus.iterdir() if path.is_dir()), (3, 1), strict=True):
            (folder / label.name).mkdir()
            for clip in sorted(label.iterdir())[:count]:
                audio, rate = soundfile.read(clip, frames=round(10.5 * soundfile.info(clip).samplerate))
                write_wav(folder / label.name / f"{clip.stem}.wav", audio, rate)

    return make_once(tmp_path_factory, "few", write)


@pytest.fixture(scope="session")
def finished_run(few_recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The work folder of a run that has finished, and its report. Tests must not change the folder."""

    def run(folder: Path) -> None:
        from tfpipe.workflow import chain

        chain.run(few_recordings, folder / "work", quiet=True, **QUICK_SETTINGS)

    workdir = make_once(tmp_path_factory, "finished_run", run) / "work"
    return workdir, json.loads((workdir / "report.json").read_text())
