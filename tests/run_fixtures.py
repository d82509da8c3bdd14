"""One finished `tfpipe run` that several tests read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

# Settings with which the whole chain needs little time; the options of `tests/integration/test_run.py` say the same.
QUICK_SETTINGS: dict[str, Any] = {"preset": "tiny", "epochs": 2, "prior_steps": 20, "semitones": (0, 7), "chords": ()}


@pytest.fixture(scope="session")
def few_recordings(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of one label, of which one is held out for validation, and one clip of another label."""
    folder = tmp_path_factory.mktemp("few")
    for label, count in zip(sorted(path for path in small_corpus.iterdir() if path.is_dir()), (3, 1), strict=True):
        (folder / label.name).mkdir()
        for clip in sorted(label.iterdir())[:count]:
            shutil.copy(clip, folder / label.name)
    return folder


@pytest.fixture(scope="session")
def finished_run(few_recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The work folder of a run that has finished, and its report. Tests must not change the folder."""
    from tfpipe.workflow import chain

    workdir = tmp_path_factory.mktemp("run") / "work"
    return workdir, chain.run(few_recordings, workdir, quiet=True, **QUICK_SETTINGS)
