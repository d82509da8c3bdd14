"""`tfpipe run`: the whole chain, from folders of audio to a model that answers."""

from __future__ import annotations

import argparse
import json
import sys

from tfpipe.cli.examples import add_examples
from tfpipe.commands.preprocess import add_corpus_arguments, corpus_settings
from tfpipe.commands.train import add_training_arguments, training_settings

HELP = "do it all: preprocess, verify, train, evaluate, export, and check the served model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of preprocess and train, and those of the work folder."""
    from serving.protocol.names import MODEL_NAME

    add_corpus_arguments(parser)
    add_training_arguments(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder for everything that is made")
    parser.add_argument(
        "--model-name", default=MODEL_NAME, metavar="NAME", help="name to serve the model under (default %(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="show Beam's own log")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.epilog = "Options after -- go to Apache Beam."
    add_examples(parser, "tfpipe run recordings --workdir work")


def run(args: argparse.Namespace) -> int:
    """Runs the stages that are not up to date and prints the results."""
    from tfpipe.process.terminal import coloured
    from tfpipe.workflow import chain
    from tfpipe.workflow.report import table

    report = chain.run(
        args.inputs,
        args.workdir,
        model_name=args.model_name,
        beam_options=args.beam_options,
        verbose=args.verbose,
        say=lambda line: print(coloured(line, "bold", stream=sys.stderr), file=sys.stderr, flush=True),
        **corpus_settings(args),
        **training_settings(args),
    )
    print(json.dumps(report) if args.json else table(report))
    return 0
