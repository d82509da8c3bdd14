"""The files and lines that the actions on a model write."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.client.long_sound import LongSound
    from serving.client.vae import Vae

# A picture shows this many spectrograms, the first ones.
MAX_PANELS = 8
# A title and a spectrogram [n_mels, frames].
Panel = tuple[str, Any]


def plot(path: Path, panels: list[Panel], vae: Vae, *, columns: int | None = None) -> None:
    """Draws the first spectrograms as a PNG."""
    from tfpipe.evaluation.plots import spectrograms

    spectrograms(path, panels[:MAX_PANELS], vae.spec(), columns=columns)


def save_mels(path: Path, mels: Iterable[NDArray[Any]], *, shape: tuple[int, ...], ref_db: NDArray[Any]) -> None:
    """Writes an npz file with the arrays `mel` and `ref_db`, without holding all of `mel` in memory.

    Args:
        path: the file; it appears under this name when it is whole.
        mels: the rows of `mel`, a few at a time: `[n, n_mels, frames]`.
        shape: the shape of `mel` when all rows are there.
        ref_db: level of each row, in dB.
    """
    import zipfile

    import numpy as np

    from tfpipe.files.storage import atomic_write

    write_header: Any = np.lib.format.write_array_header_1_0
    write_array: Any = np.lib.format.write_array
    with atomic_write(path) as out, zipfile.ZipFile(out, "w") as packed:
        with packed.open("mel.npy", "w", force_zip64=True) as file:
            write_header(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for rows in mels:
                file.write(rows.astype("<f4").tobytes())
        with packed.open("ref_db.npy", "w") as file:
            write_array(file, np.asarray(ref_db))


def write_sound(path: Path, sound: LongSound, *, what: str) -> None:
    """Writes a long sound as one wav, a piece at a time, and shows the progress."""
    from tfpipe.audio.level import EDGE_FADE_S
    from tfpipe.audio.wav import write_long_wav
    from tfpipe.process.progress import Progress

    rate = sound.spec.sample_rate
    with Progress(what, total=math.ceil(sound.samples / rate), unit="s") as bar:

        def pieces() -> Iterator[NDArray[Any]]:
            written = 0
            for piece in sound:
                written += len(piece)
                bar.set_done(written // rate if written < sound.samples else math.ceil(written / rate))
                yield piece

        write_long_wav(path, pieces(), rate, fade_s=EDGE_FADE_S)


def wrote(out: Path, **facts: float) -> dict[str, Any]:
    """Says what was written and returns it as the action's result."""
    say(", ".join([f"wrote {out}", *(f"{name} {value:.4g}" for name, value in facts.items())]))
    return {"out": str(out), **facts}


def say(text: str) -> None:
    """Prints a line on stderr, so that stdout holds the JSON object alone."""
    print(text, file=sys.stderr)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the folder that an action writes into."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")


def add_overlap(parser: argparse.ArgumentParser) -> None:
    """Adds the option of actions that join windows to one recording."""
    parser.add_argument(
        "--overlap-s",
        type=float,
        default=0.5,
        metavar="S",
        help="length of the cross-fade between windows, in s (default %(default)g)",
    )
