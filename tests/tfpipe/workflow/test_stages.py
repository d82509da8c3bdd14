"""A list of stages: each runs once, and again when something that it depends on has changed."""

from pathlib import Path

import pytest

from tfpipe.errors import TfpipeError
from tfpipe.files.storage import WORK_STATE
from tfpipe.workflow.stages import Result, Stage, run_stages


class Work:
    """Three stages that count how often they run; `fails` names one that raises."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails = ""
        self.settings = {"first": 1, "second": 1, "third": 1}
        self.intact = True
        self.said: list[str] = []

    def stage(self, name: str, before: str | None, *, every_time: bool = False) -> Stage:
        def run(done):
            if name == self.fails:
                raise TfpipeError(f"{name} failed")
            self.ran.append(name)
            return {"value": self.settings[name]}

        inputs = None if every_time else lambda done: [self.settings[name], done[before]] if before else []
        return Stage(name=name, inputs=inputs, run=run, intact=lambda outputs: self.intact)

    def run(self, folder: Path) -> Result:
        self.ran.clear()
        stages = [
            self.stage("first", None, every_time=True),
            self.stage("second", "first"),
            self.stage("third", "second"),
        ]
        return run_stages(folder, stages, say=self.said.append)


@pytest.fixture
def work() -> Work:
    return Work()


def test_a_second_run_only_asks_the_stage_that_finds_out_by_itself(work, tmp_path):
    first = work.run(tmp_path)
    assert first.worked == ("first", "second", "third")
    assert list(first.seconds) == ["first", "second", "third"]
    assert all(0 <= seconds < 60 for seconds in first.seconds.values())
    again = work.run(tmp_path)
    assert work.ran == ["first"]
    assert again.worked == ()
    assert again.seconds == {}
    assert again.outputs == {name: {"value": 1} for name in ("first", "second", "third")}
    assert work.said[-1] == "[3/3] third: up to date"


@pytest.mark.parametrize(("changed", "expected"), [("third", ["first", "third"]), ("first", ["first", "second"])])
def test_a_change_runs_what_depends_on_it_until_an_output_is_as_before(work, tmp_path, changed, expected):
    work.run(tmp_path)
    work.settings[changed] = 2
    result = work.run(tmp_path)
    assert work.ran == expected
    assert result.outputs[changed] == {"value": 2}


def test_a_stage_whose_files_are_gone_runs_again(work, tmp_path):
    work.run(tmp_path)
    work.intact = False
    assert work.run(tmp_path).worked == ("second", "third")


@pytest.mark.parametrize("failing", ["first", "second", "third"])
def test_after_a_failure_the_next_run_begins_at_the_stage_that_failed(work, tmp_path, failing):
    work.fails = failing
    with pytest.raises(TfpipeError, match=f"{failing} failed"):
        work.run(tmp_path)
    finished = list(work.ran)
    work.fails = ""
    work.run(tmp_path)
    assert set(work.ran) == {"first", "second", "third"} - (set(finished) - {"first"})


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"second": 3}', '{"second": {"inputs": "x"}}'])
def test_a_damaged_state_file_counts_as_nothing_done(work, tmp_path, damage):
    work.run(tmp_path)
    (tmp_path / WORK_STATE).write_text(damage)
    assert work.run(tmp_path).worked == ("first", "second", "third")
