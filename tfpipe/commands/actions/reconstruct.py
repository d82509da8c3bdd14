"""`tfpipe reconstruct`: a recording through encoder and decoder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import add_out, add_overlap
from tfpipe.commands.actions.rebuilding import rebuild

if TYPE_CHECKING:
    from serving.client.vae import Vae

HELP = "an audio file through encoder and decoder, to wav and PNG"
EXAMPLE = "song.wav --out rebuilt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("file", type=Path, metavar="FILE", help="audio file")
    add_out(parser)
    add_overlap(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes the reconstruction as one wav of the recording's length, and a picture of the first windows."""
    return rebuild(vae, args, name="reconstruction")
