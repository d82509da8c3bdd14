"""`tfpipe preprocess`: folders of audio in, a dataset folder of augmented log-mel TFRecords out."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from tfpipe.cli.options import given
from tfpipe.spec import FeatureSpec

HELP = "turn folders of audio into a dataset of augmented log-mel TFRecords (a Beam job)"
_SPEC_HELP = {
    "sample_rate": "Hz of the audio that features are made of",
    "window_s": "length of a window, s",
    "n_fft": "samples of an STFT frame",
    "hop": "samples between STFT frames",
    "n_mels": "mel bands",
    "fmin": "lowest band edge, Hz",
    "fmax": "highest band edge, Hz",
    "power": "exponent of the magnitude, 1 or 2",
    "top_db": "dynamic range, dB",
    "silence_dbfs": "windows with a lower peak are dropped, dBFS",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_corpus_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="dataset folder to make, also s3:// or gs://")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset made with other settings")
    parser.add_argument("--verbose", action="store_true", help="show Beam's own log")
    parser.add_argument("--json", action="store_true", help="print a summary as one JSON object")
    parser.epilog = (
        "Options after -- go to Apache Beam: --runner=FlinkRunner, ...; docs/RUNNERS.md has what clusters need."
    )


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the inputs and every option that shapes the dataset; all but the inputs default to the config's own."""
    text = "folder (its subfolders are the labels), file, glob, or .csv/.jsonl list of path, label and maybe group"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=text)
    group = parser.add_argument_group("dataset")

    def option(name: str, kind: Callable[[str], Any], text: str) -> None:
        group.add_argument(name, type=kind, default=None, help=text)

    option("--semitones", _numbers, "pitch shifts, 0 is the original (0,4,7,8,12)")
    option(
        "--chords",
        _words,
        "stacked harmonies: major, minor, sus4, ..., notes with levels 0:4@-3:7, or '' for none (major)",
    )
    option("--stretch", _numbers, "factors of length, 1.1 lasts 1.1 times as long (none)")
    option("--gains", _numbers, "turned-down copies, dB: -6,-12 (none)")
    option("--noise-snr", _numbers, "white noise so many dB under the signal: 20,10 (none)")
    option("--also", _words, "further variants by name: shift+4+noise20dB,chord:minor+stretch*0.9 (none)")
    option("--engine", str, "spectral (fast) or waveform (librosa's phase vocoder, the reference)")
    option("--hop-s", float, "s between window starts (the window length: no overlap)")
    option("--min-fill", float, "share of a window that a left-over end or a short track must fill (0.5)")
    option("--validation-share", float, "share of tracks for validation (0.1)")
    option("--test-share", float, "share of tracks for the test split (0.1)")
    option("--groups", str, ".csv/.jsonl list of path and group: tracks of one group stay in one split")
    option("--splits-from", str, "older dataset folder: its tracks keep their splits")
    group.add_argument(
        "--shard-mib", type=_mebibytes, dest="shard_bytes", metavar="MIB", help="largest size of a shard, MiB (128)"
    )
    option("--max-skipped", float, "fail when a larger share of the files cannot be used (0.5)")
    option("--workers", int, "processes on this machine (1)")
    group.add_argument("--augment-eval", action="store_true", default=None, help="variants in validation and test too")
    group = parser.add_argument_group("features")
    for field in dataclasses.fields(FeatureSpec):
        kind = int if isinstance(field.default, int) else float
        name = f"--{field.name.replace('_', '-')}"
        group.add_argument(name, type=kind, default=None, help=f"{_SPEC_HELP[field.name]} ({field.default:g})")


def corpus_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that `add_corpus_arguments` read: fields of `PreprocessConfig` and of `FeatureSpec`."""
    from beam_jobs.config import PreprocessConfig
    from tfpipe.spec import FeatureSpec

    job = {name: value for name, value in given(args, PreprocessConfig).items() if name not in ("inputs", "output")}
    return {**job, **given(args, FeatureSpec)}


def run(args: argparse.Namespace) -> int:
    """Makes the dataset and says what is in it."""
    from beam_jobs.job import preprocess
    from tfpipe.commands.inspect import table
    from tfpipe.data.statistics import inspect
    from tfpipe.workflow.configs import preprocess_config

    config = preprocess_config(args.inputs, args.output, corpus_settings(args))
    preprocess(config, pipeline_args=args.beam_options, verbose=args.verbose)
    summary = inspect(args.output)
    print(json.dumps(summary) if args.json else table(args.output, summary))
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,4,7,-2.5") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _mebibytes(text: str) -> int:
    try:
        return round(float(text) * 2**20)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB, such as 128") from None
