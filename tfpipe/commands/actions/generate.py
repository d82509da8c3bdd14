"""`tfpipe generate`: new windows from seeds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.cli.options import whole_numbers
from tfpipe.commands.actions.output import plot, wrote
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.client.vae import Vae

HELP = "new windows from seeds, to wav and PNG"
# The median level of 36 five-second windows of pianos and voices was 8.7 dB (90 % between 6 and 12).
_REF_DB = 9.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument(
        "--seeds", type=whole_numbers, required=True, metavar="1,2,3", help="one window is made from each seed"
    )
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="spread of the draw (1.0)")
    parser.add_argument(
        "--ref-db",
        type=float,
        default=_REF_DB,
        metavar="DB",
        help=f"level of the loudest point, in dB ({_REF_DB:g}, which is typical of recordings)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes a wav for each seed and one picture.

    Raises:
        UsageError: the level or the temperature is out of range.
    """
    import numpy as np

    from tfpipe.audio.level import EDGE_FADE_S
    from tfpipe.audio.wav import write_wav

    if not -100.0 <= args.ref_db <= 30.0:
        raise UsageError(
            f"--ref-db {args.ref_db:g} is out of range; use -100 to 30 dB (recordings lie about {_REF_DB:g})"
        )
    if not 0.0 <= args.temperature <= 10.0:
        raise UsageError(f"--temperature {args.temperature:g} is out of range; use 0 to 10")
    made = vae.generate(args.seeds, args.temperature)
    audio = vae.decode_audio(made.z, np.full(len(args.seeds), args.ref_db))
    for seed, window in zip(args.seeds, audio, strict=True):
        write_wav(args.out / f"seed-{seed}.wav", window, vae.spec().sample_rate, fade_s=EDGE_FADE_S)
    plot(args.out / "generated.png", [(f"seed {s}", mel) for s, mel in zip(args.seeds, made.mel, strict=True)], vae)
    return wrote(args.out, windows=len(args.seeds))
