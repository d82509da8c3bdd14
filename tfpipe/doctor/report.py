"""The report of `tfpipe doctor`: what is installed, what works, what is wrong and how to fix it.

Loads no TensorFlow: a child process tries the libraries out.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfpipe import __version__, lanes
from tfpipe.doctor import machine, probes
from tfpipe.doctor.outcomes import TIMEOUT_S, run_probes
from tfpipe.doctor.problems import OPTIONAL, differences, machine_problems, package_problems, probe_problems

# The packages that tfpipe needs. They are listed here because a checkout on PYTHONPATH has no installed metadata.
PACKAGES = (
    *lanes.LANES["default"],
    *("scipy", "soundfile", "soxr", "av", "google-crc32c", "grpcio", "grpcio-reflection", "tensorboard"),
    *("matplotlib", "pillow", "pyarrow", "scikit-learn", "shtab", "starlette", "tqdm", "uvicorn", "waitress"),
)
_FRONT_ENDS = {
    "native": "compiled front end",
    "python": "gRPC in Python, at under half of the rate; for the compiled one, install Rust, then tfpipe again",
}


def diagnose(*, folder: Path | None = None, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Examines this machine and tries out each library that tfpipe needs.

    Args:
        folder: the folder whose free disk space is measured; the current one when None.
        timeout_s: limit for all probes together, in s.

    Returns:
        JSON values: `tfpipe`, `python`, `platform`, `cpu`, `memory`, `disk`,
        `packages`, `grpc_front_end`, `lane`, `probes` (name -> `ok`, `detail`) and `problems`
        (each with `what`, `fix`, `broken`).
    """
    versions = {name: lanes.installed_version(name) for name in PACKAGES}
    match = lanes.match(versions)
    outcomes = run_probes(list(probes.PROBES), timeout_s=timeout_s)
    report: dict[str, Any] = {
        "tfpipe": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "disk": machine.disk(folder or Path.cwd()),
        "packages": versions,
        # Looked up and not imported, because tfpipe.doctor may not depend on serving.
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
        *package_problems(versions, match),
        *probe_problems(outcomes, versions["tensorflow"]),
        *machine_problems(report),
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
        ("lane", lane["name"] or f"neither; nearest is {lane['nearest']}: {differences(lane['differences'])}"),
        ("devices", "; ".join(map(_device, devices)) or "unknown: TensorFlow does not work"),
    ]
    for name, outcome in report["probes"].items():
        title = f"tensorflow-io {name}" if name in probes.TENSORFLOW_IO else name.replace("_", " ")
        rows.append((title, _shown(name, outcome, tensorflow=report["packages"]["tensorflow"])))
    width = max(len(title) for title, _ in rows)
    lines = [f"{title:<{width}}  {text}" for title, text in rows]
    problems = [f"  - {problem['what']}: {problem['fix']}" for problem in report["problems"]]
    return "\n".join([*lines, "", *(["problems:", *problems] if problems else ["no problems found"])])


def _device(device: Mapping[str, Any]) -> str:
    capability = device["compute_capability"]
    return f"{device['name']} {device['kind']}" + (f" (compute capability {capability})" if capability else "")


def _shown(name: str, outcome: Mapping[str, Any], *, tensorflow: str | None) -> str:
    detail = outcome["detail"]
    if not outcome["ok"] and name in OPTIONAL and not lanes.tensorflow_io_loads(tensorflow):
        return f"not with TensorFlow {tensorflow}; the default lane has it"
    if not outcome["ok"]:
        return f"FAILS: {detail}"
    if name == "soundfile":
        return ", ".join(format_ for format_, works in detail.items() if works)
    return f"works: TensorFlow {detail['version']}" if name == "tensorflow" else f"works: {detail}"
