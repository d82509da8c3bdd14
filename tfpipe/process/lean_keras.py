"""Keeps Keras from importing packages that it can do without, so that a command starts faster.

Importing TensorFlow imports Keras. Keras in turn imports scikit-learn (for its wrappers) and matplotlib (for its
plots) if they are installed. Together they take about a third of the 5 s, and no command uses these parts of Keras.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_OPTIONAL = ("matplotlib", "sklearn")


class _NotForKeras(importlib.abc.MetaPathFinder):
    """Makes the optional packages look missing when a module of Keras imports them; others find them as usual."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _OPTIONAL and _importer().startswith("keras."):
            raise ModuleNotFoundError(f"{fullname} is left out of Keras to start faster", name=fullname)
        return None


def leave_out_optional_imports() -> None:
    """Call this in a program's entry point, before TensorFlow is imported."""
    if not any(isinstance(finder, _NotForKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NotForKeras())


def _importer() -> str:
    """Returns the name of the module whose import statement is being run."""
    frame = sys._getframe(2)
    while frame.f_back and str(frame.f_globals.get("__name__", "")).startswith("importlib."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))
