"""Keras does without the packages that only slow its import; everybody else finds them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tfpipe.process import lean_keras


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package of two modules that counts as optional for Keras."""
    name = "optional_for_keras"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "plots.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(lean_keras, "_OPTIONAL", (name,))
    for module in (name, f"{name}.plots"):
        monkeypatch.setitem(sys.modules, module, sys)  # so that it is removed after the test
        del sys.modules[module]
    lean_keras.leave_out_optional_imports()
    lean_keras.leave_out_optional_imports()
    return name


@pytest.mark.parametrize("statement", ["import {}", "import {}.plots", "from {}.plots import x"])
def test_keras_does_not_find_it(package: str, statement: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="left out of Keras"):
        exec(statement.format(package), {"__name__": "keras.src.wrappers.fixes"})


def test_others_find_it_and_keras_finds_everything_else(package: str) -> None:
    exec("import json.tool", {"__name__": "keras.src.saving"})
    exec(f"import {package}.plots", {"__name__": "tfpipe.evaluation.plots"})
    assert f"{package}.plots" in sys.modules
