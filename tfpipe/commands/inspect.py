"""`tfpipe inspect`: shows what a dataset folder holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings, given
from tfpipe.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from tfpipe.data.records import Example

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
    add_examples(parser, "tfpipe inspect data --plots pictures")


def run(args: argparse.Namespace) -> int:
    """Prints the summary, and draws the contact sheets.

    Raises:
        UsageError: options that do not go together.
        DatasetError: there are no examples to draw.
    """
    from tfpipe.data.augmentation import AugmentConfig
    from tfpipe.data.corpus_check import corpus_advice
    from tfpipe.data.manifest import load_manifest
    from tfpipe.data.statistics import inspect, levels
    from tfpipe.evaluation import contact_sheet
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
        picked: dict[contact_sheet.Place, Example] = {}
        with Progress("read", total=summary["examples"], unit="example") as bar:

            def see(example: Example) -> None:
                bar.update()
                contact_sheet.pick(example, picked)

            summary["levels"] = levels(folder, on_example=see)
        manifest = load_manifest(folder)
        if args.plots:
            if not picked:
                raise DatasetError(f"{folder}: holds no examples to draw; preprocess more audio")
            summary["plots"] = contact_sheet.draw(Path(args.plots), picked, manifest)
        if args.augmented:
            summary["augmented"] = contact_sheet.draw_augmented(Path(args.plots), picked, manifest, augment)
    if args.json:
        print(json.dumps(summary))
    else:
        print(table(args.data, summary))
        for sentence in corpus_advice(folder):
            print(f"{'note':<13} {sentence}")
    return 0


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
