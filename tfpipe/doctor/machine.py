"""What the machine has: processors, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

_GIB = 2**30
# The flags of /proc/cpuinfo that decide how fast matrix products are.
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def cpu() -> dict[str, Any]:
    """Returns the number of processors, how many this process may use, their model and their flags."""
    info = _colon_table(Path("/proc/cpuinfo"))
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "count": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "model": info.get("model name") or platform.processor() or platform.machine(),
        "features": [flag for flag in _CPU_FLAGS if flag in flags],
    }


def memory() -> dict[str, float | None]:
    """Returns total and available memory in GiB, None where the system does not say."""
    info = _colon_table(Path("/proc/meminfo"))

    def gib(name: str) -> float | None:
        return round(int(info[name].split()[0]) * 1024 / _GIB, 1) if name in info else None

    return {"total_gib": gib("MemTotal"), "available_gib": gib("MemAvailable")}


def disk(folder: Path) -> dict[str, float]:
    """Returns the free space in GiB of a folder and of the folder for temporary files."""
    folders = dict.fromkeys([str(folder), tempfile.gettempdir()])
    return {path: round(shutil.disk_usage(path).free / _GIB, 1) for path in folders}


def _colon_table(path: Path) -> dict[str, str]:
    """Reads lines of the form `name : value`; the first value of a name counts. Empty if there is no file."""
    try:
        pairs = [line.split(":", 1) for line in path.read_text().splitlines() if ":" in line]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, value in reversed(pairs)}
