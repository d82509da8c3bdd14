"""`tfpipe generate`: new sounds from seeds, a window each or as long as is asked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tfpipe.cli.options import whole_numbers
from tfpipe.commands.actions.drawing import add_label, add_level, add_temperature, check_draw
from tfpipe.commands.actions.output import MAX_PANELS, Panel, add_out, plot, write_sound, wrote
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.client.vae import Vae

HELP = "new sounds from seeds, to wav and PNG"
EXAMPLE = "--label Piano --seconds 30 --out made"
# Windows in one request; no more are held in memory at a time.
_ROWS = 32
_MAX_COUNT = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--seeds", type=whole_numbers, metavar="1,2,3", help="one sound is made from each seed (default 0)"
    )
    which.add_argument("--count", type=int, metavar="N", help="make N sounds, from the seeds 0 to N - 1")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="length of each sound, s (default: one window); a longer one needs a learned prior",
    )
    add_label(parser)
    add_temperature(parser)
    add_level(parser)
    add_out(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes a wav for each seed and one picture.

    Raises:
        UsageError: a value is out of range, the label is not known, or the model has no learned prior for it.
    """
    check_draw(args)
    if args.count is not None and not 1 <= args.count <= _MAX_COUNT:
        raise UsageError(f"--count {args.count} is out of range; use 1 to {_MAX_COUNT}")
    seeds = args.seeds if args.seeds is not None else list(range(args.count or 1))
    vae.require_label(args.label)
    if args.seconds is None:
        panels = _windows(vae, args, seeds)
        plot(args.out / "generated.png", panels, vae)
        return wrote(args.out, windows=len(seeds))
    panels = []
    for seed in seeds:
        panels.extend(_long(vae, args, seed))
    plot(args.out / "generated.png", panels, vae)
    return wrote(args.out, sounds=len(seeds), seconds=args.seconds)


def _windows(vae: Vae, args: argparse.Namespace, seeds: list[int]) -> list[Panel]:
    """Writes one window for each seed; returns the first panels of the picture."""
    import numpy as np

    from tfpipe.audio.level import EDGE_FADE_S
    from tfpipe.audio.wav import write_wav
    from tfpipe.process.progress import Progress

    panels: list[Panel] = []
    with Progress("generate", total=len(seeds), unit="window") as bar:
        for at in range(0, len(seeds), _ROWS):
            rows = seeds[at : at + _ROWS]
            made = vae.generate(rows, args.temperature, args.label)
            for seed, audio in zip(rows, vae.decode_audio(made.z, np.full(len(rows), args.ref_db)), strict=True):
                write_wav(args.out / f"seed-{seed}.wav", audio, vae.spec().sample_rate, fade_s=EDGE_FADE_S)
            panels.extend((_title(args, seed), mel) for seed, mel in zip(rows, made.mel, strict=True))
            del panels[MAX_PANELS:]
            bar.update(len(rows))
    return panels


def _long(vae: Vae, args: argparse.Namespace, seed: int) -> list[Panel]:
    """Writes one continuous sound; returns the panels of its windows."""
    from serving.client.long_sound import LongSound

    sound = LongSound(
        vae,
        seconds=args.seconds,
        seed=seed,
        label=args.label,
        temperature=args.temperature,
        ref_db=args.ref_db,
    )
    write_sound(args.out / f"seed-{seed}.wav", sound, what=f"generate, seed {seed}")
    return [(f"{_title(args, seed)}, window {index}", mel) for index, mel in enumerate(sound.mels, start=1)]


def _title(args: argparse.Namespace, seed: int) -> str:
    """Returns what a panel is called: the label, if one was asked for, and the seed."""
    return f"{args.label}, seed {seed}" if args.label is not None else f"seed {seed}"
