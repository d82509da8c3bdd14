"""The shell command and the Python that make a sound of the studio elsewhere."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipes:
    """Writes recipes for one model.

    Attributes:
        model: folder of the model, or `HOST:PORT` of a server.
        is_server: which of the two it is.
    """

    model: str
    is_server: bool = False

    def draw(self, *, seed: int, label: str | None, temperature: float, ref_db: float) -> dict[str, str]:
        """Returns the recipe of a draw."""
        options = ["generate", "--seeds", str(seed), "--temperature", f"{temperature:g}"]
        options += ["--label", label] if label else []
        return self._both(
            options,
            f"made = vae.generate([{seed}], {temperature:g}, {label!r})",
            f"audio = vae.decode_audio(made.z, [{ref_db:g}])[0]",
        )

    def rebuilt(self, file: str, start_s: float) -> dict[str, str]:
        """Returns the recipe of a window of a recording, encoded and decoded."""
        return self._both(
            ["reconstruct", file],
            "from tfpipe.audio.reader import read_window",
            f"window = read_window({file!r}, start_s={start_s:g}, spec=vae.spec())",
            "encoded = vae.encode_audio(window[None])",
            "audio = vae.decode_audio(encoded.z_mean, encoded.ref_db)[0]",
        )

    def varied(self, amount: float, seed: int, label: str | None) -> dict[str, str]:
        """Returns the recipe of a variation of a saved latent."""
        return self._of_latent(f"z = vae.vary(start.z_mean, {amount:g}, [{seed}], {label!r}).z")

    def continued(self, seconds: float, seed: int, label: str | None, temperature: float) -> dict[str, str]:
        """Returns the recipe of a sound that continues a saved latent."""
        what = f"seconds={seconds:g}, seed={seed}, label={label!r}, temperature={temperature:g}"
        return {
            "command": self._command(["continue", "RECORDING", "--seconds", f"{seconds:g}", "--seed", str(seed)]),
            "python": self._python(
                "from serving.client.long_sound import LongSound",
                "from tfpipe.evaluation.latents import read_latents",
                'start = read_latents("start.npz")',
                f"sound = LongSound(vae, {what}, ref_db=start.ref_db[0], first=start.z_mean)",
                "audio = np.concatenate(list(sound))",
            ),
        }

    def mixed(self, share: float) -> dict[str, str]:
        """Returns the recipe of a mix of two saved latents."""
        return self._of_latent(
            'other = read_latents("other.npz")',
            "from serving.client.windows import interpolate",
            f"z = interpolate(start.z_mean[0], other.z_mean[0], steps=101)[[{round(100 * share)}]]",
            ref_db=f"{1 - share:g} * start.ref_db + {share:g} * other.ref_db",
        )

    def latent(self) -> dict[str, str]:
        """Returns the recipe of a sound whose latent is saved."""
        return self._of_latent("z = start.z_mean")

    def whole(self, file: str) -> dict[str, str]:
        """Returns the recipe of a whole recording, rebuilt."""
        return self._both(
            ["reconstruct", file],
            "from serving.client.windows import overlap_samples, stitch",
            f"parts = list(vae.rebuild_file({file!r}, overlap_s=0.5))",
            "starts = np.concatenate([part.start_s for part in parts]) * vae.spec().sample_rate",
            "windows = zip(np.rint(starts).astype(int), np.concatenate([part.audio for part in parts]))",
            "audio = np.concatenate(list(stitch(windows, overlap=overlap_samples(vae.spec(), 0.5))))",
        )

    def _of_latent(self, *lines: str, ref_db: str = "start.ref_db") -> dict[str, str]:
        return {
            "command": self._command(["decode", "latents.npz"]),
            "python": self._python(
                "from tfpipe.evaluation.latents import read_latents",
                'start = read_latents("start.npz")',
                *lines,
                f"audio = vae.decode_audio(z, {ref_db})[0]",
            ),
        }

    def _both(self, options: list[str], *lines: str) -> dict[str, str]:
        return {"command": self._command(options), "python": self._python(*lines)}

    def _command(self, options: list[str]) -> str:
        where = ["--server", self.model] if self.is_server else ["--model", self.model]
        return shlex.join(["tfpipe", *(["client"] if self.is_server else []), *options, *where, "--out", "sounds"])

    def _python(self, *lines: str) -> str:
        opened = f"vae = tp.Client({self.model!r})" if self.is_server else f"vae = tp.load({self.model!r})"
        return "\n".join(["import numpy as np", "import tfpipe as tp", opened, *lines])
