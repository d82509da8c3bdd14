"""`tfpipe score`: measures a run on recordings, without a dataset folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings, given
from tfpipe.errors import UsageError

HELP = "measure a run on recordings, without a dataset folder: error, KL and latents"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    from tfpipe.evaluation.score_config import ScoreConfig

    text = "folder, audio file, glob, or .csv/.jsonl list of path and label; also s3:// or gs://"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=text)
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument(
        "--latents",
        metavar="OUT.npz",
        help="write z_mean, z_log_var, ref_db, mse, kl, start_s, track of each window",
    )
    add_settings(parser, ScoreConfig)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    add_examples(parser, "tfpipe score recordings --run run --latents latents.npz")


def run(args: argparse.Namespace) -> int:
    """Measures the recordings, writes the latents if asked to, and prints the figures."""
    from beam_jobs.corpus import discover
    from tfpipe.evaluation.score_config import ScoreConfig
    from tfpipe.files.remote import require_local

    require_local(args.run, what="the run folder")
    latents = Path(args.latents) if args.latents else None
    if latents is not None:
        require_local(args.latents, what="the latents' file")
        if latents.is_dir() or latents.suffix != ".npz":
            raise UsageError(f"{latents}: cannot be the latents file; use a name that ends in .npz")
    config = ScoreConfig(**given(args, ScoreConfig))
    corpus = discover(args.inputs)
    from tfpipe.evaluation.latents import write_latents
    from tfpipe.process.progress import loading_tensorflow

    with loading_tensorflow("score"):
        from tfpipe.evaluation.score import score

    scores = score(corpus.files, run=args.run, skipped=corpus.skipped, config=config)
    if latents is not None:
        write_latents(latents, scores.latents())
    print(json.dumps({**scores.summary, "base": corpus.base}) if args.json else describe(scores.summary))
    return 0


def describe(summary: Mapping[str, Any]) -> str:
    """Returns scores as text for people, one line for each track."""
    rows = [f"{'mse':>9} {'KL':>8} {'windows':>8} {'silent':>7}  track"]
    for row in (*summary["tracks"], {**summary, "path": f"all {len(summary['tracks'])} tracks"}):
        rows.append(f"{row['mse']:9.5f} {row['kl']:8.2f} {row['windows']:8} {row['silent']:7}  {row['path']}")
    return "\n".join(rows).encode(errors="backslashreplace").decode()  # file names need not be valid text
