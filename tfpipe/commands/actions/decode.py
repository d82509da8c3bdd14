"""`tfpipe decode`: latents to sounds and spectrograms."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import MAX_PANELS, Panel, add_out, plot, save_mels, wrote
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.client.vae import Vae
    from tfpipe.process.progress import Progress

HELP = "latents of `encode` to wav, npz and PNG"
EXAMPLE = "latents.npz --out sounds"
# Windows in one request; no more are held in memory at a time.
_ROWS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    parser.add_argument("latents", type=Path, metavar="X.npz", help="latents, from `tfpipe encode`")
    add_out(parser)


def run(vae: Vae, args: argparse.Namespace) -> dict[str, Any]:
    """Writes a wav for each window, all spectrograms in `mel.npz`, and the first ones in `mel.png`.

    Raises:
        UsageError: the file holds no latents, or those of another model.
    """
    from tfpipe.audio.level import EDGE_FADE_S
    from tfpipe.audio.wav import write_wav
    from tfpipe.evaluation.latents import read_latents
    from tfpipe.process.progress import Progress

    latents, served = read_latents(args.latents), vae.describe()
    # Latents of another model would decode to noise. A file that does not name its model is accepted.
    if differing := latents.differences(fingerprint=served["fingerprint"], checkpoint=served["metadata"]):
        raise UsageError(
            f"{args.latents}: made by another model ({'; '.join(differing)}); encode the recordings with {vae.target}"
        )
    z, ref_db, spec = latents.z_mean, latents.ref_db, vae.spec()
    if z.ndim != 2 or z.shape[1] != served["latent"]:
        raise UsageError(
            f"{args.latents}: z_mean has the shape {list(z.shape)}, but the model's latents are "
            f"[n, {served['latent']}]; encode the recordings with {vae.target}"
        )
    panels: list[Panel] = []

    def decoded(bar: Progress) -> Iterator[NDArray[Any]]:
        for at in range(0, len(z), _ROWS):
            rows = slice(at, at + _ROWS)
            mel = vae.decode(z[rows])
            for index, audio in enumerate(vae.decode_audio(z[rows], ref_db[rows]), start=at):
                write_wav(args.out / f"{index:05d}.wav", audio, spec.sample_rate, fade_s=EDGE_FADE_S)
            panels.extend((f"window {index}", window) for index, window in enumerate(mel, start=at))
            del panels[MAX_PANELS:]
            bar.update(len(mel))
            yield mel

    with Progress("decode", total=len(z), unit="window") as bar:
        save_mels(args.out / "mel.npz", decoded(bar), shape=(len(z), *spec.mel_shape), ref_db=ref_db)
    plot(args.out / "mel.png", panels, vae)
    return wrote(args.out, windows=len(z))
