"""What is installed, what works, what is wrong and how to mend it. Loads no TensorFlow.

Everything that could crash or hang is asked of `tfpipe.doctor.probes` in a child process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfpipe import __version__, lanes
from tfpipe.doctor import probes

PYTHONS = ((3, 11), (3, 12))
_TIMEOUT_S = 120.0
_GIB = 2**30
# Needed even where the installed metadata cannot be asked (a checkout on PYTHONPATH).
_PACKAGES = (
    *lanes.LANES["default"],
    *("scipy", "soundfile", "soxr", "av", "google-crc32c", "grpcio", "tensorboard", "matplotlib", "tqdm", "waitress"),
)
# Parts of tensorflow-io that only some TensorFlow versions load; tfpipe does without them.
_COMPILED = tuple(name for name in probes.TENSORFLOW_IO if name != "masks")
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_FRONT_ENDS = {
    "native": "compiled front end",
    "python": "gRPC in Python, at under half of the rate; for the compiled one, install Rust and run scripts/setup",
}
_REINSTALL = "run scripts/setup, or `pip install -c constraints/default.txt tfpipe` in a fresh virtual environment"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one probe ended.

    Attributes:
        ok: whether it worked.
        detail: what it found, or why it failed in one line.
    """

    ok: bool
    detail: Any


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong.

    Attributes:
        what: one line.
        fix: what to do about it.
        broken: whether a needed part does not work at all.
    """

    what: str
    fix: str
    broken: bool


def diagnose(*, folder: Path | None = None, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """Looks at this machine and really calls what tfpipe needs.

    Args:
        folder: where disk space is measured; the current folder when None.
        timeout_s: limit for all probes together, in s.

    Returns:
        JSON values: `tfpipe`, `python`, `platform`, `cpu`, `memory`, `disk`,
        `packages`, `grpc_front_end`, `lane`, `probes` (name -> `ok`, `detail`) and `problems`
        (each with `what`, `fix`, `broken`).
    """
    versions = {name: lanes.installed_version(name) for name in _PACKAGES}
    match = lanes.match(versions)
    outcomes = run_probes(list(probes.PROBES), timeout_s=timeout_s)
    report: dict[str, Any] = {
        "tfpipe": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "memory": _memory(),
        "disk": _disk(folder or Path.cwd()),
        "packages": versions,
        # Asked for, not imported: the core knows nothing of the server.
        "grpc_front_end": "native" if importlib.util.find_spec("serving.server._front") else "python",
        "lane": {
            "name": match.lane if match.exact else None,
            "nearest": match.lane,
            "differences": {
                name: {"installed": ours, "lane": theirs} for name, (ours, theirs) in match.differences.items()
            },
        },
        "probes": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }
    problems = [
        *_package_problems(versions, match),
        *_probe_problems(outcomes, versions["tensorflow"]),
        *_machine_problems(report),
    ]
    report["problems"] = [asdict(problem) for problem in problems]
    return report


def render(report: Mapping[str, Any]) -> str:
    """Returns a report from `diagnose` as text for a person."""
    cpu, memory, lane = report["cpu"], report["memory"], report["lane"]
    tensorflow = report["probes"]["tensorflow"]
    devices = tensorflow["detail"]["devices"] if tensorflow["ok"] else []
    rows = [
        ("tfpipe", report["tfpipe"]),
        ("python", f"{report['python']['version']}  {report['python']['executable']}"),
        ("platform", report["platform"]),
        ("cpu", f"{cpu['usable']} of {cpu['count']} usable, {cpu['model']} ({', '.join(cpu['features'])})"),
        ("memory", f"{memory['available_gib']} GiB available of {memory['total_gib']} GiB"),
        *(("disk", f"{free} GiB free in {path}") for path, free in report["disk"].items()),
        ("packages", ", ".join(f"{name} {version or 'MISSING'}" for name, version in report["packages"].items())),
        ("serve", _FRONT_ENDS[report["grpc_front_end"]]),
        ("lane", lane["name"] or f"neither; nearest is {lane['nearest']}: {_differences(lane['differences'])}"),
        ("devices", "; ".join(map(_device, devices)) or "unknown: TensorFlow does not work"),
    ]
    for name, outcome in report["probes"].items():
        title = f"tensorflow-io {name}" if name in probes.TENSORFLOW_IO else name.replace("_", " ")
        rows.append((title, _shown(name, outcome, tensorflow=report["packages"]["tensorflow"])))
    width = max(len(title) for title, _ in rows)
    lines = [f"{title:<{width}}  {text}" for title, text in rows]
    problems = [f"  - {problem['what']}: {problem['fix']}" for problem in report["problems"]]
    return "\n".join([*lines, "", *(["problems:", *problems] if problems else ["no problems found"])])


def run_probes(names: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> dict[str, Outcome]:
    """Runs probes of `tfpipe.doctor.probes` in a child process, a new one after each that dies.

    Returns:
        An outcome for every name, in order.
    """
    outcomes: dict[str, Outcome] = {}
    deadline = time.monotonic() + timeout_s
    while left := [name for name in names if name not in outcomes]:
        outcomes |= _run_child(left, timeout_s=max(0.0, deadline - time.monotonic()), total_s=timeout_s)
    return {name: outcomes[name] for name in names}


def _run_child(names: list[str], *, timeout_s: float, total_s: float) -> dict[str, Outcome]:
    """Runs probes until all are done or the child ends; gives an outcome for at least the first."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", probes.__name__, *names],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
        )
        try:
            status, why = child.wait(timeout_s), ""
        except subprocess.TimeoutExpired:
            child.kill()
            status, why = child.wait(), f"no answer within the {total_s:.0f} s that all probes have together"
        stdout.seek(0)
        stderr.seek(0)
        said = [json.loads(line) for line in stdout.read().splitlines() if line.startswith(b'{"probe"')]
        last_words = stderr.read().decode(errors="replace").strip().splitlines()[-1:]
    outcomes = {
        line["probe"]: Outcome(ok=line["state"] == "works", detail=line["detail"])
        for line in said
        if line["state"] != "started"
    }
    ended = f"the process ended with status {status if status >= 0 else 128 - status}"
    unfinished = [name for name in names if name not in outcomes]
    if unfinished:
        outcomes[unfinished[0]] = Outcome(ok=False, detail=why or " ".join([f"{ended}:", *last_words])[:240])
    elif status and outcomes[names[-1]].ok:
        detail = f"{outcomes[names[-1]].detail} ({ended} afterwards)"
        outcomes[names[-1]] = Outcome(ok=True, detail=detail)
    return outcomes


def _package_problems(versions: Mapping[str, str | None], match: lanes.Match) -> list[Problem]:
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
        different = _differences(
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


def _probe_problems(outcomes: Mapping[str, Outcome], tensorflow: str | None) -> list[Problem]:
    problems = []
    for name, outcome in outcomes.items():
        if outcome.ok:
            continue
        optional = name in _COMPILED
        if not optional or lanes.tensorflow_io_loads(tensorflow):
            what = f"{'tensorflow-io ' if name in probes.TENSORFLOW_IO else ''}{name} does not work ({outcome.detail})"
            problems.append(Problem(what=what, fix=_REINSTALL, broken=not optional))
    formats = outcomes["soundfile"].detail if outcomes["soundfile"].ok else {}
    if lacking := [name for name, works in formats.items() if not works]:
        fix = "`pip install -U soundfile` (its wheel brings libsndfile)"
        problems.append(Problem(what=f"{', '.join(lacking)} files cannot be decoded", fix=fix, broken=False))
    return problems


def _machine_problems(report: Mapping[str, Any]) -> list[Problem]:
    problems = []
    tensorflow = report["probes"]["tensorflow"]
    sees_gpu = tensorflow["ok"] and any(device["name"].startswith("GPU") for device in tensorflow["detail"]["devices"])
    if tensorflow["ok"] and not sees_gpu and Path("/dev/nvidia0").exists():
        what = "this machine has an NVIDIA GPU that TensorFlow does not see"
        fix = "`pip install 'tfpipe[gpu]'` with the lane's constraints, and check that `nvidia-smi` works"
        problems.append(Problem(what=what, fix=fix, broken=False))
    for path, free in report["disk"].items():
        if free < 2.0:
            what = f"only {free} GiB free in {path}"
            problems.append(Problem(what=what, fix="free some space before a large job", broken=False))
    if (available := report["memory"]["available_gib"]) is not None and available < 2.0:
        what = f"only {available} GiB of memory available"
        problems.append(Problem(what=what, fix="end other programs, or train with --preset tiny", broken=False))
    return problems


def _cpu() -> dict[str, Any]:
    info = _colon_table(Path("/proc/cpuinfo"))
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "count": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "model": info.get("model name") or platform.processor() or platform.machine(),
        "features": [flag for flag in _CPU_FLAGS if flag in flags],
    }


def _memory() -> dict[str, float | None]:
    info = _colon_table(Path("/proc/meminfo"))

    def gib(name: str) -> float | None:
        return round(int(info[name].split()[0]) * 1024 / _GIB, 1) if name in info else None

    return {"total_gib": gib("MemTotal"), "available_gib": gib("MemAvailable")}


def _disk(folder: Path) -> dict[str, float]:
    folders = dict.fromkeys([str(folder), tempfile.gettempdir()])
    return {path: round(shutil.disk_usage(path).free / _GIB, 1) for path in folders}


def _colon_table(path: Path) -> dict[str, str]:
    """Reads `name : value` lines, the first of each name; empty where there is no such file."""
    try:
        pairs = [line.split(":", 1) for line in path.read_text().splitlines() if ":" in line]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, value in reversed(pairs)}


def _differences(differences: Mapping[str, Mapping[str, str | None]]) -> str:
    return ", ".join(
        f"{name} {pair['installed'] or 'missing'} (lane: {pair['lane']})" for name, pair in differences.items()
    )


def _device(device: Mapping[str, Any]) -> str:
    capability = device["compute_capability"]
    return f"{device['name']} {device['kind']}" + (f" (compute capability {capability})" if capability else "")


def _shown(name: str, outcome: Mapping[str, Any], *, tensorflow: str | None) -> str:
    detail = outcome["detail"]
    if not outcome["ok"] and name in _COMPILED and not lanes.tensorflow_io_loads(tensorflow):
        return f"not with TensorFlow {tensorflow}; the default lane has it"
    if not outcome["ok"]:
        return f"FAILS: {detail}"
    if name == "soundfile":
        return ", ".join(format_ for format_, works in detail.items() if works)
    return f"works: TensorFlow {detail['version']}" if name == "tensorflow" else f"works: {detail}"
