"""`tfpipe preprocess`: turns folders of audio into a dataset: log-mel TFRecords of every window and its variants."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings, given
from tfpipe.spec import FeatureSpec

HELP = "turn folders of audio into a dataset of log-mel TFRecords with variants (a Beam job)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    from beam_jobs.config import PreprocessConfig

    add_corpus_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help=_help("output"))
    add_settings(parser, PreprocessConfig, only=("overwrite",))
    parser.add_argument("--verbose", action="store_true", help="show Beam's own log")
    parser.add_argument("--json", action="store_true", help="print what the dataset holds as one JSON object")
    parser.epilog = "Options after -- go to Apache Beam: --runner=FlinkRunner, ..."
    add_examples(parser, "tfpipe preprocess recordings --output data --semitones 0,4,7")


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the inputs and the options that shape the dataset."""
    from beam_jobs.config import PreprocessConfig

    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=_help("inputs"))
    group = parser.add_argument_group("dataset")
    add_settings(group, PreprocessConfig, leave_out=("inputs", "output", "overwrite", "shard_bytes"))
    # The name of `--held-out-variants` in earlier versions.
    group.add_argument(
        "--augment-eval", dest="held_out_variants", action="store_true", default=None, help=argparse.SUPPRESS
    )
    group.add_argument(
        "--shard-mib",
        type=_mebibytes,
        dest="shard_bytes",
        metavar="MIB",
        help=f"largest size of a shard, MiB (default {PreprocessConfig.shard_bytes >> 20})",
    )
    add_settings(parser.add_argument_group("features"), FeatureSpec)


def corpus_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings that `add_corpus_arguments` read: fields of `PreprocessConfig` and of `FeatureSpec`."""
    from beam_jobs.config import PreprocessConfig
    from tfpipe.spec import FeatureSpec

    job = {name: value for name, value in given(args, PreprocessConfig).items() if name not in ("inputs", "output")}
    return {**job, **given(args, FeatureSpec)}


def run(args: argparse.Namespace) -> int:
    """Makes the dataset and prints what it holds."""
    from beam_jobs.job import preprocess
    from tfpipe.commands.inspect import table
    from tfpipe.data.statistics import inspect
    from tfpipe.workflow.configs import preprocess_config

    config = preprocess_config(args.inputs, args.output, corpus_settings(args))
    preprocess(config, pipeline_args=args.beam_options, verbose=args.verbose)
    summary = inspect(args.output)
    print(json.dumps(summary) if args.json else table(args.output, summary))
    return 0


def _help(name: str) -> str:
    """Returns the help text of a setting of the job."""
    from beam_jobs.config import PreprocessConfig

    return next(str(field.metadata["help"]) for field in dataclasses.fields(PreprocessConfig) if field.name == name)


def _mebibytes(text: str) -> int:
    try:
        return round(float(text) * 2**20)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB, such as 128") from None
