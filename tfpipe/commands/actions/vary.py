"""`tfpipe vary`: a recording, moved part of the way to noise and back through the learned prior."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.drawing import add_label, add_seed, check_draw
from tfpipe.commands.actions.output import add_out, add_overlap
from tfpipe.commands.actions.rebuilding import rebuild
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.client.answers import FloatArray
    from serving.client.vae import Vae

HELP = "a variation of an audio file, to wav and PNG"
EXAMPLE = "song.wav --amount 0.3 --out made"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("file", type=Path, metavar="FILE", help="audio file")
    parser.add_argument(
        "--amount",
        type=float,
        default=0.3,
        metavar="A",
        help="how much to change, from 0 (nothing) to 1 (a new draw) (default %(default)g)",
    )
    add_label(parser)
    add_seed(parser)
    add_out(parser)
    add_overlap(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes the variation as one wav of the recording's length, and a picture of the first windows.

    Raises:
        UsageError: a value is out of range, the label is not known, or the model has no learned prior.
        AudioError: the file cannot be read as audio.
    """
    from serving.client.long_sound import seed_of

    check_draw(args)
    if not 0.0 <= args.amount <= 1.0:
        raise UsageError(f"--amount {args.amount:g} is out of range; use 0 (no change) to 1 (a new draw)")
    vae.require_prior("vary")
    vae.require_label(args.label)

    def varied(z: FloatArray, first: int) -> FloatArray:
        seeds = [seed_of(args.seed, first + row) for row in range(len(z))]
        return vae.vary(z, args.amount, seeds, args.label).z

    return rebuild(vae, args, change=varied, name="variation")
