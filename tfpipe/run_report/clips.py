"""Sounds inside a page: MP3 in a data URI. Does not load TensorFlow."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The rates that MP3 has, Hz. A sound of another rate is resampled to the next higher one.
_MP3_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# How much is compressed, from 0 to 1. At 22 050 Hz a second takes about 6.5 kB, or 5 kB where there are many sounds.
_GOOD, _SMALL = 0.25, 0.5


def clip(audio: NDArray[np.floating[Any]], sample_rate: int, *, small: bool = False) -> str:
    """Returns mono audio as the data URI of an MP3, for the `src` of a player.

    Samples beyond full scale are limited, as a player would do.

    Args:
        audio: `[samples]`, full scale 1.0.
        sample_rate: Hz.
        small: compress more; for pages with hundreds of sounds.
    """
    import soundfile

    rate = next((rate for rate in _MP3_RATES if rate >= sample_rate), _MP3_RATES[-1])
    samples = np.asarray(audio, np.float32)
    if rate != sample_rate:
        import soxr

        samples = soxr.resample(samples, sample_rate, rate)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer,
        "w",
        rate,
        1,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=_SMALL if small else _GOOD,
    ) as file:
        file.write(np.clip(samples, -1.0, 1.0))
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
