"""Probes run in a child process, which may die or hang."""

import time
from pathlib import Path

import pytest

from tfpipe.doctor import outcomes
from tfpipe.doctor.outcomes import Outcome, run_probes


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
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(outcomes.__file__).parents[2]}")
    monkeypatch.setattr(outcomes.probes, "__name__", "bad_probes")


@pytest.mark.usefixtures("bad_probes")
def test_a_dying_child_takes_only_its_probe_down():
    found = run_probes(["answers", "aborts", "raises", "aborts_late"])
    assert list(found) == ["answers", "aborts", "raises", "aborts_late"]
    assert found["answers"] == Outcome(ok=True, detail="fine")
    assert not found["aborts"].ok
    assert found["aborts"].detail == "the process ended with status 134: pure virtual method called"
    assert found["raises"] == Outcome(ok=False, detail="OSError: libx.so: undefined symbol: _Z3foo")
    assert found["aborts_late"].ok
    assert "134" in found["aborts_late"].detail


@pytest.mark.usefixtures("bad_probes")
def test_a_hanging_child_is_ended():
    started = time.monotonic()
    found = run_probes(["hangs", "answers"], timeout_s=2.0)
    assert time.monotonic() - started < 20
    assert not found["hangs"].ok
    assert "2 s" in found["hangs"].detail
