"""The sounds that the studio has made: their wavs lie in a folder, the oldest are removed when there are too many."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.audio.level import EDGE_FADE_S
from tfpipe.audio.wav import write_wav
from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec
from tfpipe.studio.newest import Newest

FloatArray = NDArray[np.floating[Any]]
# Sounds that can still be played or changed, and the bytes of all their wavs; a window takes 220 kB.
MOST_SOUNDS, MOST_BYTES = 300, 4 << 30


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One sound.

    Attributes:
        key: its name on the shelf.
        title: what it is, for people.
        path: its wav.
        seconds: length, s.
        z: `[d]`, its latent; None if the model did not make it.
        ref_db: level of its loudest point, dB.
        mel: `[n_mels, frames]`, spectrogram of its first window.
        recipe: how to make it elsewhere: shell commands and Python, by `command` and `python`.
    """

    key: str
    title: str
    path: Path
    seconds: float
    z: FloatArray | None
    ref_db: float
    mel: FloatArray
    recipe: dict[str, str]


class Shelf:
    """Holds sounds. Threads may share it.

    Args:
        folder: where the wavs are written.
        spec: gives the sample rate.
    """

    def __init__(self, folder: Path, spec: FeatureSpec) -> None:
        self._spec = spec
        gone = f"this sound is no longer here (the newest {MOST_SOUNDS} are, until the studio ends); make it again"
        self._wavs: Newest[Sound] = Newest(folder, prefix="s", most=MOST_SOUNDS, most_bytes=MOST_BYTES, gone=gone)

    def add(
        self,
        audio: FloatArray,
        *,
        title: str,
        mel: FloatArray,
        recipe: dict[str, str],
        z: FloatArray | None = None,
        ref_db: float,
    ) -> Sound:
        """Writes a sound `[samples]` and returns it; see `Sound` for the other arguments.

        Raises:
            TfpipeError: the wav cannot be written.
        """
        path = self.new_path()
        write_wav(path, audio, self._spec.sample_rate, fade_s=EDGE_FADE_S)
        seconds = len(audio) / self._spec.sample_rate
        return self.put(path, seconds=seconds, title=title, mel=mel, recipe=recipe, z=z, ref_db=ref_db)

    def new_path(self) -> Path:
        """Returns a path for a wav that is then `put`."""
        return self._wavs.new_path(".wav")

    def put(self, path: Path, **facts: Any) -> Sound:
        """Adds a sound whose wav lies at a `new_path`; see `Sound` for the other arguments."""
        sound = Sound(key=path.stem, path=path, **facts)
        self._wavs.put(path, sound)
        return sound

    def get(self, key: Any) -> Sound:
        """Returns a sound.

        Raises:
            UsageError: there is none of that key.
        """
        return self._wavs.get(key)

    def latent(self, key: Any) -> tuple[Sound, FloatArray]:
        """Returns a sound and its latent `[d]`.

        Raises:
            UsageError: there is no such sound, or it has no latent.
        """
        sound = self.get(key)
        if sound.z is None:
            raise UsageError(f"{sound.title}: has no latent; choose a sound that the model has made")
        return sound, sound.z


def file_name(title: str) -> str:
    """Returns a title as the beginning of a file name."""
    return re.sub(r"[^\w.-]+", "-", title).strip("-.")[:60] or "sound"
