"""The judgement on machines that are made up."""

import pytest

from tfpipe import lanes
from tfpipe.doctor import probes
from tfpipe.doctor.outcomes import Outcome
from tfpipe.doctor.problems import package_problems, probe_problems


def _outcomes(**failing: str) -> dict[str, Outcome]:
    good = {name: Outcome(ok=True, detail="fine") for name in probes.PROBES}
    good["soundfile"] = Outcome(ok=True, detail={"wav": True, "mp3": True})
    return good | {name: Outcome(ok=False, detail=detail) for name, detail in failing.items()}


@pytest.mark.parametrize(
    ("failing", "tensorflow", "broken"),
    [
        ({}, "2.17.1", []),
        ({"beam": "gone"}, "2.17.1", [True]),
        ({"masks": "gone"}, "2.21.0", [True]),
        ({"decode_mp3": "gone"}, "2.17.1", [False]),
        ({"decode_mp3": "gone", "s3": "gone"}, "2.21.0", []),
    ],
)
def test_judges_failing_probes(failing, tensorflow, broken):
    problems = probe_problems(_outcomes(**failing), tensorflow)
    assert [problem.broken for problem in problems] == broken
    for name, problem in zip(failing, problems, strict=False):
        assert name in problem.what
        assert "gone" in problem.what


def test_names_formats_that_cannot_be_decoded():
    outcomes = _outcomes() | {"soundfile": Outcome(ok=True, detail={"wav": True, "mp3": False})}
    (problem,) = probe_problems(outcomes, "2.17.1")
    assert problem.what.startswith("mp3 files")


def test_a_missing_package_is_a_problem():
    versions = {**lanes.LANES["default"], "keras": None}
    (problem,) = package_problems(versions, lanes.match(versions))
    assert problem.broken
    assert "keras" in problem.what


@pytest.mark.parametrize("lane", list(lanes.LANES))
def test_knows_the_lanes(lane):
    match = lanes.match(lanes.LANES[lane])
    assert (match.lane, match.exact) == (lane, True)
    near = lanes.match({**lanes.LANES[lane], "librosa": "0.10.2"})
    assert (near.lane, dict(near.differences)) == (lane, {"librosa": ("0.10.2", lanes.LANES[lane]["librosa"])})
    problems = package_problems({**lanes.LANES[lane], "librosa": "0.10.2"}, near)
    assert "librosa 0.10.2" in problems[0].what
    assert not problems[0].broken
