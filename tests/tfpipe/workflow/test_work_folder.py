"""What a failed run leaves in its work folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tfpipe.errors import TfpipeError
from tfpipe.files.storage import LOCK, WORK_STATE
from tfpipe.workflow import chain
from tfpipe.workflow.work_folder import existing_folders, no_empty_folders


def fail_in(work: Path, make: Callable[[], object]) -> None:
    """Fails in a work folder after `make` has made something there."""

    def failing_run() -> None:
        with no_empty_folders(work, before=before):
            work.mkdir(parents=True, exist_ok=True)
            (work / LOCK).touch()
            make()
            raise ValueError("failed")

    before = existing_folders(work)
    with pytest.raises(ValueError, match="failed"):
        failing_run()


def test_a_run_without_recordings_leaves_nothing_that_it_made(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "mine").mkdir()
    with pytest.raises(TfpipeError, match="no audio files"):
        chain.run(tmp_path / "in", tmp_path / "mine" / "a" / "work", quiet=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "mine"]


def test_empty_folders_go_and_what_holds_something_stays(tmp_path):
    work = tmp_path / "work"
    (work / "kept").mkdir(parents=True)

    def make() -> None:
        (work / "data" / "shards").mkdir(parents=True)
        (work / "run").mkdir()
        (work / "run" / LOCK).touch()
        (work / "figures").mkdir()
        (work / "figures" / "a.png").touch()

    fail_in(work, make)
    assert sorted(path.name for path in work.iterdir()) == [LOCK, "figures", "kept"]


@pytest.mark.parametrize(("state", "stays"), [("{}", False), ('{"verify": {}}', True), ("{", True)])
def test_a_finished_stage_keeps_the_work_folder(tmp_path, state, stays):
    work = tmp_path / "work"
    fail_in(work, lambda: (work / WORK_STATE).write_text(state))
    assert work.exists() is stays


def test_after_success_empty_folders_stay(tmp_path):
    before = existing_folders(tmp_path / "work")
    with no_empty_folders(tmp_path / "work", before=before):
        (tmp_path / "work").mkdir()
    assert (tmp_path / "work").exists()
