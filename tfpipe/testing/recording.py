"""What the piano and the voice have in common: the sample rate, the room, the level."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import signal

from tfpipe.features.log_mel import FloatArray

SAMPLE_RATE = 22_050


def reverberation(audio: FloatArray, seconds: float, *, rng: Generator) -> FloatArray:
    """Returns the quiet reverberation of `audio` `[count]` in a random room, `[count]`.

    Args:
        audio: `[count]`.
        seconds: length of the reverberation, in s.
        rng: gives the room.
    """
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(time)) * np.exp(-time / (0.3 * seconds))
    response *= 0.25 / np.sqrt(np.sum(response**2))
    tail: FloatArray = signal.fftconvolve(audio, response)[: len(audio)]
    return tail


def finish(audio: FloatArray, rng: Generator) -> FloatArray:
    """Adds noise about 70 dB below the peak, and scales `audio` `[count]` to a random peak from 0.5 to 0.9."""
    audio = audio / max(1e-9, float(np.abs(audio).max()))
    audio = audio + 3e-4 * rng.standard_normal(len(audio))
    scaled: FloatArray = audio * (rng.uniform(0.5, 0.9) / np.abs(audio).max())
    return scaled
