"""One finished `tfpipe run` that several tests read."""

from pathlib import Path
from typing import Any

import pytest

# Settings with which the whole chain takes under a minute.
QUICK_SETTINGS: dict[str, Any] = {"preset": "tiny", "epochs": 2, "semitones": (0, 7), "chords": ()}


@pytest.fixture(scope="session")
def finished_run(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The work folder of a run that has finished, and its report. Tests must not change the folder."""
    from tfpipe.workflow import chain

    workdir = tmp_path_factory.mktemp("run") / "work"
    return workdir, chain.run(small_corpus, workdir, quiet=True, **QUICK_SETTINGS)
