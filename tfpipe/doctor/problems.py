"""Judges what was found: which packages, probes and resources are a problem, and how to fix each."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe import lanes
from tfpipe.doctor import probes
from tfpipe.doctor.outcomes import Outcome

PYTHONS = ((3, 11), (3, 12))
# tfpipe works without these parts of tensorflow-io, which only some versions of TensorFlow load.
OPTIONAL = tuple(name for name in probes.TENSORFLOW_IO if name != "masks")
_REINSTALL = (
    f"in a fresh virtual environment, run `pip install tfpipe tensorflow=={lanes.LANES['default']['tensorflow']}`"
)
# Less free memory or disk than this is a problem.
_LITTLE_GIB = 2.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong on this machine.

    Attributes:
        what: the problem, in one line.
        fix: what to do about it.
        broken: whether a needed part does not work at all.
    """

    what: str
    fix: str
    broken: bool


def package_problems(versions: Mapping[str, str | None], match: lanes.Match) -> list[Problem]:
    """Returns what is wrong with the installed packages.

    Args:
        versions: package -> installed version, None if it is missing.
        match: how these versions compare with the lanes.
    """
    problems = [
        Problem(what=f"{name} is not installed", fix=_REINSTALL, broken=True)
        for name, version in versions.items()
        if version is None
    ]
    if sys.version_info[:2] not in PYTHONS:
        allowed = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        what = f"Python {platform.python_version()} is not supported"
        problems.append(Problem(what=what, fix=f"use Python {allowed}", broken=True))
    outside = _outside_ranges()
    problems += [Problem(what=what, fix=_REINSTALL, broken=False) for what in outside]
    if not match.exact and not outside and all(versions.values()):
        different = differences(
            {name: {"installed": ours, "lane": theirs} for name, (ours, theirs) in match.differences.items()}
        )
        what = f"this set of versions is untested (nearest lane: {match.lane}; {different})"
        problems.append(Problem(what=what, fix=f"fine if all else works; else {_REINSTALL}", broken=False))
    return problems


def _outside_ranges() -> list[str]:
    """Returns a line for each installed requirement of tfpipe whose version is outside its range."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("tfpipe") or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    lines = []
    for requirement in requirements:
        version = lanes.installed_version(requirement.name)
        if requirement.marker is None and version and not requirement.specifier.contains(version, prereleases=True):
            lines.append(f"{requirement.name} {version} is outside {requirement.specifier}")
    return lines


def probe_problems(outcomes: Mapping[str, Outcome], tensorflow: str | None) -> list[Problem]:
    """Returns the probes that failed and should work with this version of TensorFlow."""
    problems = []
    for name, outcome in outcomes.items():
        if outcome.ok:
            continue
        optional = name in OPTIONAL
        if not optional or lanes.tensorflow_io_loads(tensorflow):
            what = f"{'tensorflow-io ' if name in probes.TENSORFLOW_IO else ''}{name} does not work ({outcome.detail})"
            problems.append(Problem(what=what, fix=_REINSTALL, broken=not optional))
    formats = outcomes["soundfile"].detail if outcomes["soundfile"].ok else {}
    if lacking := [name for name, works in formats.items() if not works]:
        fix = "`pip install -U soundfile` (its wheel brings libsndfile)"
        problems.append(Problem(what=f"{', '.join(lacking)} files cannot be decoded", fix=fix, broken=False))
    return problems


def machine_problems(report: Mapping[str, Any]) -> list[Problem]:
    """Returns what this machine lacks: a GPU that is there but not seen, disk space, memory."""
    problems = []
    tensorflow = report["probes"]["tensorflow"]
    sees_gpu = tensorflow["ok"] and any(device["name"].startswith("GPU") for device in tensorflow["detail"]["devices"])
    if tensorflow["ok"] and not sees_gpu and Path("/dev/nvidia0").exists():
        what = "this machine has an NVIDIA GPU that TensorFlow does not see"
        fix = "`pip install 'tfpipe[gpu]'` with the lane's constraints, and check that `nvidia-smi` works"
        problems.append(Problem(what=what, fix=fix, broken=False))
    for path, free in report["disk"].items():
        if free < _LITTLE_GIB:
            what = f"only {free} GiB free in {path}"
            problems.append(Problem(what=what, fix="free some space before a large job", broken=False))
    if (available := report["memory"]["available_gib"]) is not None and available < _LITTLE_GIB:
        what = f"only {available} GiB of memory available"
        problems.append(Problem(what=what, fix="end other programs, or train with --preset tiny", broken=False))
    return problems


def differences(differences: Mapping[str, Mapping[str, str | None]]) -> str:
    """Returns the packages whose versions differ from a lane's, as text."""
    return ", ".join(
        f"{name} {pair['installed'] or 'missing'} (lane: {pair['lane']})" for name, pair in differences.items()
    )
