"""The garbage collector rests while TensorFlow is imported, and works afterwards."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from tfpipe.process import gc_pause


def test_the_import_runs_without_the_collector_and_what_it_made_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "large_package"
    (tmp_path / f"{name}.py").write_text("import gc\nenabled = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    others = [finder for finder in sys.meta_path if not isinstance(finder, gc_pause._PausedImport)]
    monkeypatch.setattr(sys, "meta_path", list(others))
    monkeypatch.setattr(gc_pause, "_PACKAGE", name)
    monkeypatch.setitem(sys.modules, name, sys)  # so that it is removed after the test
    del sys.modules[name]
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    gc_pause.pause_while_importing_tensorflow()
    gc_pause.pause_while_importing_tensorflow()
    assert len(sys.meta_path) == len(others) + 1
    package = __import__(name)
    assert package.enabled is False
    assert gc.isenabled()
    assert frozen == [False]
    assert sys.meta_path == others
