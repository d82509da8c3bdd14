"""`tfpipe encode`: audio files to latents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import say
from tfpipe.errors import AudioError, TfpipeError

if TYPE_CHECKING:
    from serving.client.vae import Vae

HELP = "audio files to latents (npz)"
EXAMPLE = "song.wav --out latents.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio file")
    parser.add_argument("--out", type=Path, required=True, metavar="X.npz", help="file for the latents")


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Encodes every window of the files; a file that cannot be read is skipped as a whole.

    Raises:
        TfpipeError: none of the files can be read.
    """
    import numpy as np

    from tfpipe.evaluation.latents import Latents, write_latents
    from tfpipe.process.progress import Progress

    columns: dict[str, list[Any]] = {name: [] for name in ("z_mean", "z_log_var", "ref_db", "start_s", "path")}
    skipped = []
    with Progress("encode", unit="window") as bar:
        for path in args.files:
            batches = []
            try:
                # A file can turn out to be damaged half-way, so its windows are kept only when all are there.
                for starts, encoded in vae.encode_file(path):
                    names = np.full(len(starts), str(path))
                    batches.append((encoded.z_mean, encoded.z_log_var, encoded.ref_db, starts, names))
                    bar.update(len(starts))
            except AudioError as error:
                bar.message(f"skipped: {error}")
                skipped.append({"path": str(path), "reason": error.code})
                continue
            for batch in batches:
                for column, values in zip(columns.values(), batch, strict=True):
                    column.append(values)
    if not columns["path"]:
        raise TfpipeError(f"none of {len(args.files)} files could be encoded; the lines above say why")
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    model = vae.describe()
    write_latents(args.out, Latents(**arrays, fingerprint=model["fingerprint"], checkpoint=model["metadata"]))
    say(f"{len(arrays['path'])} windows of {len(args.files) - len(skipped)} files in {args.out}")
    return {"out": str(args.out), "windows": len(arrays["path"]), "skipped": skipped}
