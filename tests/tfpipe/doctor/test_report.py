"""`tfpipe doctor`: run for real once; its judgement on made-up machines; children that die."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfpipe import lanes
from tfpipe.doctor import report
from tfpipe.doctor.report import Outcome, probes

_VERSIONS = {name: lanes.installed_version(name) for name in report._PACKAGES}


@pytest.fixture(scope="module")
def real_run(repo):
    """The command's outcome and how long it took, in s."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tfpipe.cli.main", "doctor", "--json"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, time.monotonic() - started


def test_reports_what_is_there(real_run):
    done, seconds = real_run
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["packages"] == _VERSIONS
    assert list(report["probes"]) == list(probes.PROBES)
    assert report["probes"]["tensorflow"]["detail"]["version"] == _VERSIONS["tensorflow"]
    assert report["probes"]["tensorflow"]["detail"]["devices"][0]["name"] == "CPU:0"
    assert report["cpu"]["usable"] >= 1
    assert report["memory"]["total_gib"] > 0
    assert not any(problem["broken"] for problem in report["problems"])
    assert seconds < 120  # 20 s on an idle machine


def test_says_which_parts_of_tensorflow_io_load(real_run):
    outcomes = json.loads(real_run[0].stdout.splitlines()[-1])["probes"]
    loads = {name: outcomes[name]["ok"] for name in probes.TENSORFLOW_IO}
    compiled = lanes.tensorflow_io_loads(_VERSIONS["tensorflow"])
    assert loads == {name: compiled or name == "masks" for name in probes.TENSORFLOW_IO}


def test_text_for_a_person(real_run):
    found = json.loads(real_run[0].stdout.splitlines()[-1])
    text = report.render({**found, "problems": []})
    assert text.endswith("no problems found")
    assert re.search(rf"^lane +{found['lane']['name'] or 'neither'}", text, re.MULTILINE)
    assert re.search(r"^tensorflow-io masks +works", text, re.MULTILINE)
    broken = report.render({**found, "problems": [{"what": "beam is ill", "fix": "cure it", "broken": True}]})
    assert broken.endswith("problems:\n  - beam is ill: cure it")


@pytest.fixture
def bad_probes(tmp_path, monkeypatch):
    """Probes that end as libraries do at their worst."""
    script = tmp_path / "bad_probes.py"
    script.write_text(
        "import os, sys, time\n"
        "from tfpipe.doctor import probes\n"
        "def aborts(): print('pure virtual method called', file=sys.stderr, flush=True); os.abort()\n"
        "def raises(): raise OSError('first line\\nlibx.so: undefined symbol: _Z3foo')\n"
        "def hangs(): time.sleep(60)\n"
        "def answers(): return 'fine'\n"
        "def aborts_late(): import atexit; atexit.register(os.abort); return 'fine'\n"
        "probes.PROBES.update({f.__name__: f for f in (aborts, raises, hangs, answers, aborts_late)})\n"
        "raise SystemExit(probes.main(sys.argv[1:]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(report.__file__).parents[2]}")
    monkeypatch.setattr(report.probes, "__name__", "bad_probes")


@pytest.mark.usefixtures("bad_probes")
def test_a_dying_child_takes_only_its_probe_down():
    outcomes = report.run_probes(["answers", "aborts", "raises", "aborts_late"])
    assert list(outcomes) == ["answers", "aborts", "raises", "aborts_late"]
    assert outcomes["answers"] == Outcome(ok=True, detail="fine")
    assert not outcomes["aborts"].ok
    assert outcomes["aborts"].detail == "the process ended with status 134: pure virtual method called"
    assert outcomes["raises"] == Outcome(ok=False, detail="OSError: libx.so: undefined symbol: _Z3foo")
    assert outcomes["aborts_late"].ok
    assert "134" in outcomes["aborts_late"].detail


@pytest.mark.usefixtures("bad_probes")
def test_a_hanging_child_is_ended():
    started = time.monotonic()
    outcomes = report.run_probes(["hangs", "answers"], timeout_s=2.0)
    assert time.monotonic() - started < 20
    assert not outcomes["hangs"].ok
    assert "2 s" in outcomes["hangs"].detail


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
    problems = report._probe_problems(_outcomes(**failing), tensorflow)
    assert [problem.broken for problem in problems] == broken
    for name, problem in zip(failing, problems, strict=False):
        assert name in problem.what
        assert "gone" in problem.what


def test_names_formats_that_cannot_be_decoded():
    outcomes = _outcomes() | {"soundfile": Outcome(ok=True, detail={"wav": True, "mp3": False})}
    (problem,) = report._probe_problems(outcomes, "2.17.1")
    assert problem.what.startswith("mp3 files")


def test_a_missing_package_is_a_problem():
    versions = {**lanes.LANES["default"], "keras": None}
    (problem,) = report._package_problems(versions, lanes.match(versions))
    assert problem.broken
    assert "keras" in problem.what


@pytest.mark.parametrize("lane", list(lanes.LANES))
def test_knows_the_lanes(lane):
    match = lanes.match(lanes.LANES[lane])
    assert (match.lane, match.exact) == (lane, True)
    near = lanes.match({**lanes.LANES[lane], "librosa": "0.10.2"})
    assert (near.lane, dict(near.differences)) == (lane, {"librosa": ("0.10.2", lanes.LANES[lane]["librosa"])})
    problems = report._package_problems({**lanes.LANES[lane], "librosa": "0.10.2"}, near)
    assert "librosa 0.10.2" in problems[0].what
    assert not problems[0].broken
