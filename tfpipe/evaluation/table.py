"""Shows an evaluation as a table for people, at most 80 columns wide where names allow it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

_WIDTH = 80
_NAME = 26
_MOST_DEAD = 12
_MOST_LABELS = 3


def table(result: Mapping[str, Any]) -> str:
    """Returns the object of `tfpipe evaluate --json` as text."""
    tracks = f" of {result['tracks']} track{'s' if result['tracks'] != 1 else ''}"
    if result["windows"] > result["draws"].get("held_out_windows", result["windows"]):
        tracks = ""  # only a sample was looked at, which may miss tracks
    lines = [f"{result['split']}: {result['windows']} windows{tracks}", *_errors(result), *_audio(result["audio"])]
    lines += _draws(result["draws"])
    return "\n".join([*lines, "", *textwrap.wrap(result["verdict"]["text"], _WIDTH)])


def pca_name(pca: Mapping[str, Any]) -> str:
    """Returns what an evaluation calls its linear baseline."""
    steps = pca.get("steps", 1)
    return f"PCA, {steps} x {pca['components']}" if steps > 1 else f"PCA, {pca['components']} components"


def _row(name: str, value: str) -> str:
    return f"{name:<{_NAME}}  {value}"


def _errors(result: Mapping[str, Any]) -> list[str]:
    """Returns the rows of reconstruction errors and of the latent."""

    def row(name: str, mse: float) -> str:
        share = f"{result['mse'] / mse:.2f} of it" if mse else "which is 0"
        return _row(f"  {name}", f"{mse:.5f}  ({share})")

    baselines = dict(result["baselines"])
    mean, pca = baselines.pop("mean"), baselines.pop("pca")
    dead = result["dead"]
    named = ", ".join(map(str, dead[:_MOST_DEAD]))
    named += f" and {len(dead) - _MOST_DEAD} more" if len(dead) > _MOST_DEAD else ""
    active = f"{result['active_units']} of {result['latent']} dimensions active" + (f"; dead: {named}" if dead else "")
    lines = [
        _row("reconstruction error (mse)", f"{result['mse']:.5f}"),
        row("mean spectrogram", mean["mse"]),
        row(pca_name(pca), pca["mse"]),
        *(row(f"{name}, {other['run']}", other["mse"]) for name, other in baselines.items()),
    ]
    if "mse" in result["training"]:
        lines.append(row("training windows", result["training"]["mse"]))
    rate = f"KL {result['kl']:.2f} nats a window, {result['audio']['rate_kbit_s']:.3g} kbit/s"
    wrapped = textwrap.wrap(active, _WIDTH - _NAME - 2)
    return [*lines, _row("latent", rate), *(_row("", line) for line in wrapped)]


def _audio(audio: Mapping[str, Any]) -> list[str]:
    """Returns the rows of what is heard."""
    bands = audio["bands"]
    level = audio["level_db"]
    heard = level.get("missing") or f"{level['mean']:+.2f} dB in the mean, {level['largest']:.2f} dB at most"
    return [
        "",
        _row("mse by band, Hz", " ".join(f"{_hz(band['low_hz'])}-{_hz(band['high_hz'])}".rjust(7) for band in bands)),
        _row("", " ".join(f"{band['mse']:7.5f}" for band in bands)),
        _row("log-spectral distance", f"{audio['log_spectral_distance_db']:.2f} dB"),
        _row("level against original", heard),
        _row("notes kept (F1)", _by_label(audio["notes_kept"])),
        _row("intelligibility (STOI)", _by_label(audio["intelligibility"])),
    ]


def _hz(value: float) -> str:
    return f"{value:.0f}" if value < 1000.0 else f"{value / 1000.0:g}k"


def _by_label(row: Mapping[str, Any]) -> str:
    """Returns a mean, and those of the labels if they are few."""
    if "missing" in row:
        return str(row["missing"])
    labels = ", ".join(f"{name} {value:.2f}" for name, value in row["by_label"].items())
    several = 1 < len(row["by_label"]) <= _MOST_LABELS
    return f"{row['mean']:.2f}  ({labels}; {row['windows']} windows)" if several else f"{row['mean']:.2f}"


def _draws(draws: Mapping[str, Any]) -> list[str]:
    """Returns the rows about draws: a column for each figure."""
    if "against" not in draws:
        return ["", _row("draws", draws["missing"])]
    title = f"{draws['count']} draws ({draws['prior']} prior)"
    lines = ["", title, f"{'  against held-out windows':<{_NAME}}  {'KAD':>8} {'Frechet':>8} density coverage"]
    for name, row in draws["against"].items():
        figures = f"{row['kernel_distance']:8.2f} {row['frechet_distance']:8.1f}"
        lines.append(f"{'  ' + name:<{_NAME}}  {figures} {row['density']:7.2f} {row['coverage']:8.2f}")
    nearest, label = draws["nearest_training"], draws["label"]
    if "missing" in nearest:
        lines.append(_row("  nearest training window", nearest["missing"]))
    else:
        copies = f"{100 * nearest['copies']:.0f} % near-copies"
        lines.append(
            _row(
                "  nearest training window",
                f"{nearest['draws']:.2f}, held-out windows {nearest['held_out']:.2f}; {copies}",
            )
        )
    lines.append(_row("  label as asked", _label(label)))
    return lines


def _label(label: Mapping[str, Any]) -> str:
    if "missing" in label:
        return str(label["missing"])
    return f"{100 * label['right']:.0f} % (classifier right on {100 * label['accuracy_held_out']:.0f} % held out)"
