"""`tfpipe interpolate`: a walk through the latent space from one recording to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import add_out, add_overlap, plot, wrote
from tfpipe.commands.actions.rebuilding import silent
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.client.answers import Encoded
    from serving.client.vae import Vae

HELP = "a walk from one recording to another, to one wav and PNG"
EXAMPLE = "first.wav second.wav --steps 8 --out walk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("first", type=Path, metavar="A", help="audio file; its loudest window is taken")
    parser.add_argument("last", type=Path, metavar="B", help="audio file; its loudest window is taken")
    parser.add_argument(
        "--steps", type=int, default=5, metavar="N", help="windows, both ends included (default %(default)s)"
    )
    add_out(parser)
    add_overlap(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes the walk as one wav, and a picture of its windows.

    Raises:
        UsageError: fewer than two steps, or a recording is silent.
        AudioError: a file cannot be read as audio.
    """
    import numpy as np

    from serving.client.windows import overlap_samples, stitch
    from tfpipe.audio.level import EDGE_FADE_S
    from tfpipe.audio.wav import write_long_wav

    ends = [_loudest(vae, path) for path in (args.first, args.last)]
    walk = vae.interpolate(ends[0].z_mean[0], ends[1].z_mean[0], steps=args.steps)
    ref_db = np.linspace(ends[0].ref_db[0], ends[1].ref_db[0], args.steps)
    spec = vae.spec()
    overlap = overlap_samples(spec, args.overlap_s)
    starts = range(0, args.steps * (spec.samples - overlap), spec.samples - overlap)
    pieces = stitch(zip(starts, vae.decode_audio(walk.z, ref_db), strict=True), overlap=overlap)
    write_long_wav(args.out / "interpolation.wav", pieces, spec.sample_rate, fade_s=EDGE_FADE_S)
    titles = [f"step {index} of {args.steps}" for index in range(1, args.steps + 1)]
    plot(args.out / "interpolation.png", list(zip(titles, walk.mel, strict=True)), vae)
    return wrote(args.out, windows=args.steps)


def _loudest(vae: Vae, path: Path) -> Encoded:
    """Returns the encoding `[1, ...]` of a file's loudest window."""
    best: Encoded | None = None
    for _, encoded in vae.encode_file(path):
        at = int(encoded.ref_db.argmax())
        if best is None or encoded.ref_db[at] > best.ref_db[0]:
            best = type(encoded)(*(array[at : at + 1] for array in encoded))
    if best is None:
        raise UsageError(f"{path}: holds no window; use a longer recording")
    if not best.mel.any():
        raise UsageError(f"{path}: is {silent(vae.spec())}; use another recording")
    return best
