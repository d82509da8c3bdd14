"""Peaks above full scale, and the first and last milliseconds of a sound."""

from __future__ import annotations

import numpy as np

from tfpipe.audio.info import Samples

# A made sound can start or end in the middle of a wave. A fade of this length makes that inaudible, s.
EDGE_FADE_S = 0.02
# The limiter turns the sound down this long before and after a peak, s.
_REACH_S = 0.005


def limiter_reach(sample_rate: int) -> int:
    """Returns how many samples on either side of a sample decide what `limit_peaks` does to it."""
    return 2 * round(_REACH_S * sample_rate)


def limit_peaks(audio: Samples, sample_rate: int) -> Samples:
    """Turns audio down around the samples that exceed full scale; all other samples stay as they are.

    The volume changes smoothly over 10 ms on either side of a peak, so the wave keeps its shape.

    Args:
        audio: `[samples]`, full scale is 1.0.
        sample_rate: Hz.

    Returns:
        `[samples]` between -1 and 1, of the same type.
    """
    magnitude = np.abs(audio)
    if magnitude.max(initial=0.0) <= 1.0:
        return audio
    from scipy import ndimage  # imported here because few sounds need it

    size = limiter_reach(sample_rate) + 1
    # Each gain is low enough for all samples within `_REACH_S`. A sample gets the mean of the gains within `_REACH_S`,
    # each of which is low enough for it, so the mean is too.
    gain = 1.0 / np.maximum(ndimage.maximum_filter1d(magnitude.astype(np.float64), size, mode="nearest"), 1.0)
    limited: Samples = np.clip(audio * ndimage.uniform_filter1d(gain, size, mode="nearest"), -1.0, 1.0)
    return limited.astype(audio.dtype, copy=False)


def fade_edges(audio: Samples, *, start: int, total: int, fade: int) -> Samples:
    """Fades a sound in and out.

    Args:
        audio: `[samples]`, a piece of the sound.
        start: position of the piece in the sound, in samples.
        total: samples of the whole sound.
        fade: length of each fade in samples; 0 changes nothing. It is at most half of the sound.
    """
    fade = min(fade, total // 2)
    if not fade or fade <= start <= total - fade - len(audio):
        return audio
    position = start + np.arange(len(audio)) + 0.5
    share = np.minimum(np.minimum(position, total - position) / fade, 1.0)
    faded: Samples = audio * np.sin(np.pi / 2 * share) ** 2
    return faded
