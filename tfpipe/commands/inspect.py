"""`tfpipe inspect`: what is in a dataset folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HELP = "show what is in a dataset folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("data", metavar="DIR", help="dataset folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the summary."""
    from tfpipe.manifest import inspect

    summary = inspect(Path(args.data))
    print(json.dumps(summary) if args.json else table(args.data, summary))
    return 0


def table(folder: str, summary: Mapping[str, Any]) -> str:
    """Lays out `tfpipe.manifest.inspect`'s summary for people."""
    skipped, spec = summary["skipped"], summary["spec"]
    rows = [
        ("dataset", f"{folder} (fingerprint {summary['fingerprint']})"),
        ("tracks", f"{summary['tracks']} ({_duration(summary['seconds'])})"),
        ("windows", f"{summary['windows']} of {spec['window_s']:g} s, {summary['silent_windows']} silent ones dropped"),
        ("examples", f"{summary['examples']} ({summary['bytes'] / 1e6:.1f} MB)"),
        *((f"  {name}", _split(row)) for name, row in summary["splits"].items()),
        ("labels", ", ".join(f"{name} {row['windows']}" for name, row in summary["labels"].items()) + " windows"),
        ("variants", ", ".join(f"{name} {count}" for name, count in summary["variants"].items())),
        ("skipped", ", ".join(f"{count} {code}" for code, count in skipped["by_reason"].items()) or "nothing"),
    ]
    return "\n".join(f"{name:<13} {value}" for name, value in rows)


def _split(row: Mapping[str, int]) -> str:
    return f"examples {row['examples']}, tracks {row['tracks']}, shards {row['shards']}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
