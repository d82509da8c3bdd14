"""`tfpipe doctor`, run for real once."""

import json
import re

import pytest

from tfpipe import lanes
from tfpipe.cli.main import main
from tfpipe.doctor import probes, report

_VERSIONS = {name: lanes.installed_version(name) for name in report.PACKAGES}


@pytest.fixture(scope="module")
def real_run():
    """The report of this machine; the probes run in a child process."""
    return report.diagnose()


def test_reports_what_is_there(real_run):
    assert real_run["packages"] == _VERSIONS
    assert list(real_run["probes"]) == list(probes.PROBES)
    assert real_run["probes"]["tensorflow"]["detail"]["version"] == _VERSIONS["tensorflow"]
    assert real_run["probes"]["tensorflow"]["detail"]["devices"][0]["name"] == "CPU:0"
    assert real_run["cpu"]["usable"] >= 1
    assert real_run["memory"]["total_gib"] > 0
    assert not any(problem["broken"] for problem in real_run["problems"])
    assert json.loads(json.dumps(real_run)) == real_run


def test_says_which_parts_of_tensorflow_io_load(real_run):
    loads = {name: real_run["probes"][name]["ok"] for name in probes.TENSORFLOW_IO}
    compiled = lanes.tensorflow_io_loads(_VERSIONS["tensorflow"])
    assert loads == {name: compiled or name == "masks" for name in probes.TENSORFLOW_IO}


def test_text_for_a_person(real_run):
    text = report.render({**real_run, "problems": []})
    assert text.endswith("no problems found")
    assert re.search(rf"^lane +{real_run['lane']['name'] or 'neither'}", text, re.MULTILINE)
    assert re.search(r"^tensorflow-io masks +works", text, re.MULTILINE)
    broken = report.render({**real_run, "problems": [{"what": "beam is ill", "fix": "cure it", "broken": True}]})
    assert broken.endswith("problems:\n  - beam is ill: cure it")


@pytest.mark.parametrize("broken", [True, False])
def test_the_command_ends_with_1_when_something_needed_is_broken(real_run, broken, monkeypatch, capsys):
    problems = [{"what": "beam is ill", "fix": "cure it", "broken": broken}]
    monkeypatch.setattr(report, "diagnose", lambda: {**real_run, "problems": problems})
    assert main(["doctor", "--json"]) == int(broken)
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == problems
    assert found.get("code") == (1 if broken else None)
    assert ("error" in found) == broken
    assert main(["doctor"]) == int(broken)
    assert "beam is ill: cure it" in capsys.readouterr().out
