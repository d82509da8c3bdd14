"""`tfpipe inspect`: shows what a dataset folder holds."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.cli.options import add_settings, given
from tfpipe.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.data.records import Example

# The largest contact sheet that is still readable.
_MOST_ROWS, _MOST_COLUMNS = 12, 16
HELP = "show what is in a dataset folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    from tfpipe.data.augmentation import AugmentConfig

    parser.add_argument("data", metavar="DIR", help="dataset folder, also s3:// or gs://")
    parser.add_argument("--counts", action="store_true", help="show the counts only, without reading the examples")
    parser.add_argument(
        "--plots",
        metavar="OUT",
        help="folder for a picture of spectrograms, one row per label and one column per variant",
    )
    parser.add_argument(
        "--augmented", action="store_true", help="with --plots: also a picture of windows as training sees them"
    )
    group = parser.add_argument_group("augmentation, for --augmented (if all are off, an example of each is shown)")
    add_settings(group, AugmentConfig)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the summary, and draws the contact sheets.

    Raises:
        UsageError: options that do not go together.
        DatasetError: there are no examples to draw.
    """
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.data.statistics import inspect, levels
    from tfpipe.process.progress import Progress

    if args.counts and args.plots:
        raise UsageError("--plots needs the examples, which --counts does not read; give one of the two")
    if args.augmented and not args.plots:
        raise UsageError("--augmented draws a picture; give it a folder with --plots OUT")
    augment = AugmentConfig(**given(args, AugmentConfig))
    if augment.on and not args.augmented:
        raise UsageError(f"{', '.join(augment.on)}: shown only with --augmented; add --augmented and --plots OUT")
    folder = args.data
    summary = inspect(folder)
    if not args.counts:
        picked: dict[tuple[int, str], Example] = {}
        with Progress("read", total=summary["examples"], unit="example") as bar:

            def see(example: Example) -> None:
                bar.update()
                _pick(example, picked)

            summary["levels"] = levels(folder, on_example=see)
        if args.plots:
            if not picked:
                raise DatasetError(f"{folder}: holds no examples to draw; preprocess more audio")
            summary["plots"] = _contact_sheet(Path(args.plots), picked, folder)
        if args.augmented:
            summary["augmented"] = _augmented_sheet(Path(args.plots), picked, folder, augment)
    print(json.dumps(summary) if args.json else table(args.data, summary))
    return 0


def _pick(example: Example, picked: dict[tuple[int, str], Example]) -> None:
    """Keeps one example per label and variant: that with the lowest hash of track and time, in all variants alike."""
    place = example.label, example.variant
    if place not in picked or _rank(example) < _rank(picked[place]):
        picked[place] = example


def _rank(example: Example) -> str:
    return hashlib.sha256(f"{example.track}/{example.start_s}".encode()).hexdigest()


def _contact_sheet(out: Path, picked: Mapping[tuple[int, str], Example], folder: str) -> str:
    """Draws a row per label and a column per variant."""
    from tfpipe.data.manifest import load_manifest
    from tfpipe.evaluation.plots import spectrograms
    from tfpipe.features.log_mel import dequantise

    manifest = load_manifest(folder)
    labels = sorted({label for label, _ in picked})[:_MOST_ROWS]
    variants = sorted({variant for _, variant in picked})[:_MOST_COLUMNS]
    panels = [
        (f"{manifest.labels[label]}, {variant}", dequantise(picked[label, variant].mel))
        if (label, variant) in picked
        else None
        for label in labels
        for variant in variants
    ]
    path = out / "contact-sheet.png"
    spectrograms(path, panels, manifest.spec, columns=len(variants))
    return str(path)


def _augmented_sheet(out: Path, picked: Mapping[tuple[int, str], Example], folder: str, augment: AugmentConfig) -> str:
    """Draws a row per window: as stored, with each augmentation alone, and with all of them.

    Two variants of one window are drawn for each label, because each of them is augmented on its own.
    """
    import dataclasses

    import numpy as np
    import tensorflow as tf

    from tfpipe.data import augmentation_tf
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.data.manifest import load_manifest
    from tfpipe.evaluation.plots import spectrograms
    from tfpipe.features.log_mel import dequantise

    manifest = load_manifest(folder)
    if not augment.on:
        augment = AugmentConfig(freq_mask=16, time_mask=24, roll_s=0.5, gain_db=6.0, mixup=1.0)
    labels = sorted({label for label, _ in picked})[: _MOST_ROWS // 2]
    places = sorted(picked, key=lambda place: (place[0], place[1] != "original", place[1]))
    windows = [picked[place] for label in labels for place in [place for place in places if place[0] == label][:2]]
    batch = {
        "mel": tf.constant(np.stack([window.mel for window in windows])[..., None]),
        "ref_db": tf.constant([window.ref_db for window in windows], tf.float32),
        "label": tf.constant([window.label for window in windows], tf.int64),
        "key": tf.constant([window.key for window in windows]),
    }
    alone = {
        f"{name} {getattr(augment, name):g}": dataclasses.replace(
            AugmentConfig(masks=augment.masks), **{name: getattr(augment, name)}
        )
        for name in augment.on
    }
    columns = {"as stored": AugmentConfig(), **alone, "all": augment}
    augmented = {
        title: augmentation_tf.apply(batch, config, spec=manifest.spec, seed=0, epoch=0)["mel"].numpy()[..., 0]
        for title, config in columns.items()
    }
    panels = [
        (f"{manifest.labels[window.label]}, {window.variant}: {title}", dequantise(augmented[title][row]))
        for row, window in enumerate(windows)
        for title in columns
    ]
    path = out / "augmented.png"
    spectrograms(path, panels, manifest.spec, columns=len(columns))
    return str(path)


def table(folder: str, summary: Mapping[str, Any]) -> str:
    """Lays out `tfpipe.data.statistics.inspect`'s summary as a table for people."""
    skipped, spec = summary["skipped"], summary["spec"]
    rows = [
        ("dataset", f"{folder} (fingerprint {summary['fingerprint']})"),
        ("tracks", f"{summary['tracks']} ({_duration(summary['seconds'])})"),
        (
            "windows",
            f"{summary['windows']} of {spec['window_s']:g} s, {summary['silent_windows']} silent ones dropped, "
            f"{_duration(summary['unused_seconds'])} in no window",
        ),
        ("examples", f"{summary['examples']} ({summary['bytes'] / 1e6:.1f} MB)"),
        *((f"  {name}", _split(row)) for name, row in summary["splits"].items()),
        ("labels", ", ".join(f"{name} {row['windows']}" for name, row in summary["labels"].items()) + " windows"),
        ("variants", ", ".join(f"{name} {count}" for name, count in summary["variants"].items())),
        *(
            (f"  {split}", f"{label}: level {_levels(row)}")
            for split, labels in summary.get("levels", {}).items()
            for label, row in labels.items()
        ),
        ("skipped", ", ".join(f"{count} {code}" for code, count in skipped["by_reason"].items()) or "nothing"),
    ]
    if "plots" in summary:
        rows.append(("pictures", ", ".join(summary[name] for name in ("plots", "augmented") if name in summary)))
    return "\n".join(f"{name:<13} {value}" for name, value in rows)


def _split(row: Mapping[str, int]) -> str:
    return f"examples {row['examples']}, tracks {row['tracks']}, shards {row['shards']}"


def _levels(row: Mapping[str, Any]) -> str:
    level = row["ref_db"]
    span = f"{level['mean']:.1f} dB ({level['min']:.1f} to {level['max']:.1f})"
    return f"{span}, mean mel {row['mel_mean']:.3f}, spectral centroid {row['centroid_hz']:.0f} Hz"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
