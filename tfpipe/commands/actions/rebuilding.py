"""A recording through encoder and decoder, window by window, with or without a change of its latents."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import MAX_PANELS, Panel, plot, say, wrote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.client.answers import FloatArray
    from serving.client.vae import Vae
    from tfpipe.process.progress import Progress
    from tfpipe.spec import FeatureSpec


def rebuild(
    vae: Vae, args: argparse.Namespace, *, name: str, change: Callable[[FloatArray, int], FloatArray] | None = None
) -> dict[str, Any]:
    """Writes one wav of the recording's length, `FILE-NAME.wav`, and a picture of the first windows.

    Args:
        vae: the model.
        args: `file`, `out` and `overlap_s`.
        name: what the result is.
        change: see `Vae.rebuild_file`.

    Returns:
        The action's result.
    """
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
    heard = False
    length = round(probe(args.file).seconds * spec.sample_rate)
    overlap = overlap_samples(spec, args.overlap_s)
    windows = 1 + max(0, math.ceil((length - spec.samples) / (spec.samples - overlap)))

    def rebuilt(bar: Progress) -> Iterator[tuple[int, NDArray[Any]]]:
        nonlocal heard
        for starts, encoded, mels, audio in vae.rebuild_file(args.file, overlap_s=args.overlap_s, change=change):
            errors.extend(squared_error(mels, encoded.mel).tolist())
            heard = heard or bool(encoded.mel.any())
            for start, original, copy in zip(starts, encoded.mel, mels, strict=True):
                panels.extend([(f"original, from {start:.1f} s", original), (f"{name}, from {start:.1f} s", copy)])
            del panels[MAX_PANELS:]
            bar.update(len(starts))
            yield from ((round(start * spec.sample_rate), window) for start, window in zip(starts, audio, strict=True))

    target = args.out / f"{args.file.stem}-{name}.wav"
    with Progress(name, total=windows, unit="window") as bar:
        # The last window is padded to its full length, so the padding is cut off again.
        pieces = _first(length, stitch(rebuilt(bar), overlap=overlap))
        write_long_wav(target, pieces, spec.sample_rate, fade_s=EDGE_FADE_S)
    plot(target.with_suffix(".png"), panels, vae, columns=2)
    if not heard:
        say(f"{args.file}: is {silent(spec)}, so the result is silent; check the recording")
    return wrote(args.out, windows=len(errors), mse=float(np.mean(errors)))


def silent(spec: FeatureSpec) -> str:
    """Returns what is wrong with a recording of which all windows are silent."""
    return f"silent (no sound above {spec.silence_dbfs:g} dBFS)"


def _first(count: int, pieces: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yields the first `count` samples of `pieces`."""
    for piece in pieces:
        yield piece[:count]
        count -= min(count, len(piece))
