"""`tfpipe continue`: a recording's last window, and new sound that follows from it."""
# ruff: noqa: N999 (the name of the command is a keyword; the module is imported by its name as text)

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.drawing import add_label, add_seed, add_temperature, check_draw
from tfpipe.commands.actions.output import add_out, plot, write_sound, wrote
from tfpipe.commands.actions.rebuilding import silent
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.client.vae import Vae

HELP = "what could follow a recording, to wav and PNG"
EXAMPLE = "song.wav --seconds 20 --out made"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("file", type=Path, metavar="FILE", help="audio file; its last window is continued")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="length of the new sound, s (default %(default)g)"
    )
    add_label(parser)
    add_temperature(parser)
    add_seed(parser)
    add_out(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes one wav, the last window as the model rebuilds it and the new sound after it, and a picture.

    Raises:
        UsageError: a value is out of range, the label is not known, the model has no learned prior, or the
            recording ends in silence.
        AudioError: the file cannot be read as audio.
    """
    import numpy as np

    from serving.client.long_sound import LongSound, check_seconds
    from serving.client.windows import last_window

    check_draw(args)
    check_seconds(args.seconds)
    vae.require_prior("continue")
    vae.require_label(args.label)
    spec = vae.spec()
    encoded = vae.encode_audio(last_window(args.file, spec)[np.newaxis])
    if not encoded.mel.any():
        raise UsageError(
            f"{args.file}: the last {spec.window_s:g} s are {silent(spec)}, so there is nothing to continue; "
            "cut the silence off"
        )
    sound = LongSound(
        vae,
        seconds=spec.window_s + args.seconds,
        seed=args.seed,
        label=args.label,
        temperature=args.temperature,
        ref_db=float(encoded.ref_db[0]),
        first=encoded.z_mean,
    )
    target = args.out / f"{args.file.stem}-continued.wav"
    write_sound(target, sound, what="continue")
    titles = ["the recording's end, rebuilt", *(f"window {index}" for index in range(2, len(sound.mels) + 1))]
    plot(target.with_suffix(".png"), list(zip(titles, sound.mels, strict=True)), vae)
    return wrote(args.out, seconds=spec.window_s + args.seconds)
