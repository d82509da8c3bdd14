"""`tfpipe reconstruct`: a recording through encoder and decoder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import MAX_PANELS, Panel, add_overlap, plot, wrote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.client.vae import Vae
    from tfpipe.process.progress import Progress

HELP = "an audio file through encoder and decoder, to wav and PNG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("file", type=Path, metavar="FILE", help="audio file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_overlap(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes the reconstruction as one wav of the recording's length, and a picture of the first windows."""
    import numpy as np

    from serving.client.windows import overlap_samples, stitch
    from tfpipe.audio.level import EDGE_FADE_S
    from tfpipe.audio.reader import probe
    from tfpipe.audio.wav import write_long_wav
    from tfpipe.model.measure import squared_error
    from tfpipe.process.progress import Progress

    spec = vae.spec()
    panels: list[Panel] = []
    errors: list[float] = []
    length = round(probe(args.file).seconds * spec.sample_rate)
    overlap = overlap_samples(spec, args.overlap_s)
    windows = 1 + max(0, math.ceil((length - spec.samples) / (spec.samples - overlap)))

    def rebuilt(bar: Progress) -> Iterator[tuple[int, NDArray[Any]]]:
        for starts, encoded, mels, audio in vae.rebuild_file(args.file, overlap_s=args.overlap_s):
            errors.extend(squared_error(mels, encoded.mel).tolist())
            for start, original, copy in zip(starts, encoded.mel, mels, strict=True):
                panels.extend([(f"original, {start:g} s", original), (f"reconstruction, {start:g} s", copy)])
            del panels[MAX_PANELS:]
            bar.update(len(starts))
            yield from ((round(start * spec.sample_rate), window) for start, window in zip(starts, audio, strict=True))

    target = args.out / f"{args.file.stem}-reconstruction.wav"
    with Progress("reconstruct", total=windows, unit="window") as bar:
        # The last window is padded to its full length, so the padding is cut off again.
        pieces = _first(length, stitch(rebuilt(bar), overlap=overlap))
        write_long_wav(target, pieces, spec.sample_rate, fade_s=EDGE_FADE_S)
    plot(target.with_suffix(".png"), panels, vae, columns=2)
    return wrote(args.out, windows=len(errors), mse=float(np.mean(errors)))


def _first(count: int, pieces: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yields the first `count` samples of `pieces`."""
    for piece in pieces:
        yield piece[:count]
        count -= min(count, len(piece))
