"""A small corpus of synthesised piano and voice recordings, for demos and tests. Loads no TensorFlow.

The sounds are close enough to real ones that every stage of the pipeline has
something to learn, and no recording is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator

from tfpipe.audio.wav import write_wav
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import FloatArray
from tfpipe.testing import SECONDS, TRACKS
from tfpipe.testing.piano import piano
from tfpipe.testing.recording import SAMPLE_RATE
from tfpipe.testing.voice import voice

MAX_SECONDS = 600.0


def synthesise(
    folder: str | os.PathLike[str], *, tracks_per_label: int = TRACKS, seconds: float = SECONDS, seed: int = 0
) -> list[Path]:
    """Writes `Piano/*.wav` and `Voice/*.wav`: mono, 16 bits, 22 050 Hz.

    A track depends only on the seed, its label and its number, so that asking
    for more tracks does not change the first ones.

    Args:
        folder: made if missing.
        tracks_per_label: number of files of each label.
        seconds: length of each file, in s.
        seed: decides the music and the speakers.

    Returns:
        The paths written, in order.

    Raises:
        UsageError: an argument is out of range.
        TfpipeError: a file cannot be written.
    """
    if tracks_per_label < 1:
        raise UsageError(f"synth: {tracks_per_label} tracks; use 1 or more")
    if not 0.1 <= seconds <= MAX_SECONDS:
        raise UsageError(f"synth: tracks of {seconds:g} s; use 0.1 to {MAX_SECONDS:g} s")
    if seed < 0:
        raise UsageError(f"synth: seed {seed}; use 0 or more")
    count = round(seconds * SAMPLE_RATE)
    makers: dict[str, Callable[[int, Generator], FloatArray]] = {"Piano": piano, "Voice": voice}
    paths = []
    for label_index, (label, make) in enumerate(makers.items()):
        for track in range(tracks_per_label):
            rng = np.random.default_rng([seed, label_index, track])
            path = Path(folder) / label / f"{label.lower()}-{track:02d}.wav"
            write_wav(path, make(count, rng), SAMPLE_RATE)
            paths.append(path)
    return paths
