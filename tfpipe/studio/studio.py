"""What the studio does with a model: draws, windows of recordings, moves, mixes, variations, continuations."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.long_sound import LongSound
from serving.client.vae import Vae
from serving.client.windows import interpolate
from serving.protocol.names import REF_DB, TEMPERATURES
from tfpipe.audio.reader import TrackReader
from tfpipe.errors import UsageError, translate_os_errors
from tfpipe.evaluation.latents import Latents, write_latents
from tfpipe.studio.recipes import Recipes
from tfpipe.studio.shelf import FloatArray, Shelf, Sound, file_name
from tfpipe.studio.space import REACH, Space
from tfpipe.studio.uploads import Uploads

# A continuation is at most this long here, s; `tfpipe continue` makes longer ones.
_MOST_SECONDS = 60.0
_STEPS = 101


class Studio:
    """The actions of the page. Each gets what the page sent and returns the sounds that it made.

    Threads may share it; one action computes at a time.

    Args:
        vae: the model.
        folder: for wavs and uploads while the studio runs.
        keep: folder for the sounds that are kept.
        recipes: writes the equivalent commands.
        windows: see `Space`.
    """

    def __init__(self, vae: Vae, *, folder: Path, keep: Path, recipes: Recipes, windows: Path | None = None) -> None:
        self.vae, self.spec, self.recipes, self.keep_folder = vae, vae.spec(), recipes, keep
        self.shelf, self.uploads, self.space = Shelf(folder, self.spec), Uploads(folder), Space(vae, windows)
        self.computing, self._keeping = threading.Lock(), threading.Lock()
        self.actions = {
            "draw": self.draw,
            "window": self.window,
            "move": self.move,
            "mix": self.mix,
            "vary": self.vary,
            "continue": self.continue_,
            "point": self.point,
        }

    def act(self, name: str, asked: Mapping[str, Any]) -> list[Sound]:
        """Runs an action.

        Raises:
            UsageError: there is no such action, or what was asked is wrong.
            TfpipeError: it failed.
        """
        if name not in self.actions:
            raise UsageError(f"{name}: there is no such action; reload the page")
        with self.computing:
            return self.actions[name](asked)

    def draw(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Draws a window: `label`, `seed`, `temperature`."""
        seed, label = _whole(asked, "seed"), _label(asked)
        temperature = _number(asked, "temperature", 1.0, *TEMPERATURES)
        made = self.vae.generate([seed], temperature, label)
        recipe = self.recipes.draw(seed=seed, label=label, temperature=temperature, ref_db=REF_DB)
        spread = "" if temperature == 1.0 else f", temperature {temperature:g}"
        return [self._decoded(made.z[0], made.mel[0], REF_DB, f"{label or 'draw'} {seed}{spread}", recipe)]

    def window(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Takes a window of a recording: `file`, `start_s`; returns the original and the reconstruction."""
        upload = self.uploads.get(asked.get("file"))
        last = max(0.0, upload.seconds - self.spec.window_s)
        start_s = min(_number(asked, "start_s", 0.0, 0.0, math.inf), last)
        with TrackReader(upload.path) as reader:
            start = round(start_s * self.spec.sample_rate)
            audio = reader.read(start, self.spec.samples, rate=self.spec.sample_rate).astype(np.float32)
        encoded = self.vae.encode_audio(audio[np.newaxis])
        if not encoded.mel.any():
            raise UsageError(f"{upload.name}: is silent at {start_s:.1f} s; choose another start")
        mel, ref_db, z = self.vae.decode(encoded.z_mean)[0], float(encoded.ref_db[0]), encoded.z_mean[0]
        name = f"{upload.name}, {start_s:.1f} s"
        recipe = self.recipes.rebuilt(upload.name, start_s)
        original = self.shelf.add(
            audio, title=f"{name}, original", mel=encoded.mel[0], recipe=recipe, z=None, ref_db=ref_db
        )
        return [original, self._decoded(z, mel, ref_db, f"{name}, rebuilt", recipe)]

    def move(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Moves a sound along the model's directions: `sound`, `amounts` (standard deviations)."""
        sound, z = self.shelf.latent(asked.get("sound"))
        amounts = asked.get("amounts")
        if not isinstance(amounts, list) or not all(_is_number(one) for one in amounts):
            raise UsageError(f"amounts are needed: a list of numbers from {-REACH:g} to {REACH:g}")
        moved = self.space.find().move(z, amounts)
        return [self._made(moved, sound.ref_db, f"{sound.title}, moved", self.recipes.latent())]

    def mix(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Makes a sound between two: `first`, `second`, `share` (0 is the first, 1 the second)."""
        (first, a), (second, b) = (self.shelf.latent(asked.get(name)) for name in ("first", "second"))
        share = _number(asked, "share", 0.5, 0.0, 1.0)
        z = interpolate(a, b, steps=_STEPS)[round(share * (_STEPS - 1))]
        ref_db = (1.0 - share) * first.ref_db + share * second.ref_db
        title = f"{first.title} + {share:.0%} {second.title}"
        return [self._made(z, ref_db, title, self.recipes.mixed(share))]

    def vary(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Varies a sound: `sound`, `amount`, `seed`, `label`."""
        sound, z = self.shelf.latent(asked.get("sound"))
        amount, seed, label = _number(asked, "amount", 0.3, 0.0, 1.0), _whole(asked, "seed"), _label(asked)
        made = self.vae.vary(z[np.newaxis], amount, [seed], label)
        recipe = self.recipes.varied(amount, seed, label)
        return [
            self._decoded(made.z[0], made.mel[0], sound.ref_db, f"{sound.title}, varied {amount:g} ({seed})", recipe)
        ]

    def continue_(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Makes a longer sound that begins with a sound: `sound`, `seconds`, `seed`, `label`, `temperature`."""
        sound, z = self.shelf.latent(asked.get("sound"))
        seconds = _number(asked, "seconds", 10.0, self.spec.window_s, _MOST_SECONDS)
        seed, label = _whole(asked, "seed"), _label(asked)
        temperature = _number(asked, "temperature", 1.0, *TEMPERATURES)
        long = LongSound(
            self.vae,
            seconds=seconds,
            seed=seed,
            label=label,
            temperature=temperature,
            ref_db=sound.ref_db,
            first=z[np.newaxis],
        )
        audio = np.concatenate(list(long))
        recipe = self.recipes.continued(seconds, seed, label, temperature)
        title = f"{sound.title}, continued ({seed})"
        return [self.shelf.add(audio, title=title, mel=long.mels[0], recipe=recipe, z=z, ref_db=sound.ref_db)]

    def point(self, asked: Mapping[str, Any]) -> list[Sound]:
        """Plays a point of the map: `index`."""
        found, index = self.space.find(), asked.get("index")
        if not isinstance(index, int) or not 0 <= index < len(found.points):
            raise UsageError("there is no such point on the map; reload the page")
        point, z = found.points[index], found.z[index]
        recipe = self.recipes.latent()
        if point.seed is not None:
            recipe = self.recipes.draw(seed=point.seed, label=point.label or None, temperature=1.0, ref_db=REF_DB)
        return [self._made(z, REF_DB, point.title, recipe)]

    def keep(self, key: Any) -> Path:
        """Writes a sound, its latent and how to make it to the folder of kept sounds; returns the wav's path.

        Raises:
            UsageError: there is no such sound.
            TfpipeError: a file cannot be written.
        """
        sound, name = self.shelf.get(key), file_name(self.shelf.get(key).title)
        with self._keeping, translate_os_errors(self.keep_folder):
            self.keep_folder.mkdir(parents=True, exist_ok=True)
            taken = {path.stem for path in self.keep_folder.iterdir()}
            name = next(one for one in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if one not in taken)
            target = self.keep_folder / f"{name}.wav"
            partial = target.with_suffix(".part")
            partial.write_bytes(sound.path.read_bytes())
            partial.rename(target)
            target.with_suffix(".txt").write_text(f"{sound.recipe['command']}\n\n{sound.recipe['python']}\n")
        if sound.z is not None:
            self.write_latent(sound, target.with_suffix(".npz"))
        return target

    def write_latent(self, sound: Sound, path: Path) -> None:
        """Writes a sound's latent as a file for `tfpipe decode`.

        Raises:
            UsageError: the sound has no latent.
        """
        _, z = self.shelf.latent(sound.key)
        described = self.vae.describe()
        identity = {name: described["metadata"].get(name) for name in ("preset", "dataset", "epoch", "step")}
        write_latents(
            path,
            Latents(
                z_mean=z[np.newaxis].astype(np.float32),
                ref_db=np.array([sound.ref_db], np.float32),
                path=np.array([sound.title]),
                fingerprint=described["fingerprint"],
                checkpoint={name: value for name, value in identity.items() if value is not None},
            ),
        )

    def _made(self, z: FloatArray, ref_db: float, title: str, recipe: dict[str, str]) -> Sound:
        """Decodes a latent `[d]` and puts its sound on the shelf."""
        return self._decoded(z, self.vae.decode(z[np.newaxis])[0], ref_db, title, recipe)

    def _decoded(self, z: FloatArray, mel: FloatArray, ref_db: float, title: str, recipe: dict[str, str]) -> Sound:
        audio = self.vae.decode_audio(z[np.newaxis], [ref_db])[0]
        return self.shelf.add(audio, title=title[:200], mel=mel, recipe=recipe, z=z, ref_db=ref_db)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(asked: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = asked.get(name, default)
    if not _is_number(value) or not least <= value <= most:
        raise UsageError(f"{name} is not a number from {least:g} to {most:g}; change it")
    return float(value)


def _whole(asked: Mapping[str, Any], name: str) -> int:
    value = asked.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**53:
        raise UsageError(f"{name} is not a whole number of at most 15 digits; change it")
    return value


def _label(asked: Mapping[str, Any]) -> str | None:
    value = asked.get("label")
    if value is not None and not isinstance(value, str):
        raise UsageError("label is not a text; choose one of the list")
    return value or None
