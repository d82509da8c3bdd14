"""Mixes the channels of a recording to mono; `tfpipe.audio.reader` calls this module.

Channels are mixed by their mean. In stereo with opposite phase the mean
cancels: if it is more than 20 dB below the loudest channel, that channel alone is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tfpipe.audio.info import Samples

# The mean has cancelled if it is more than this below the loudest channel.
CANCELLED_DB = -20.0
# The quick sums of squares are rounded differently on other machines, by much less than this factor.
_SURELY = 2.0


def quickly(frames: Samples) -> Samples | None:
    """Mixes frames `[n, channels]` to `[n]` if a quick look shows that they are finite and do not cancel.

    Returns:
        The mean of the channels, of the frames' type; None if `exactly` must decide. Whether it is None may depend on
        the machine, but the mean is the one that `exactly` gives.
    """
    flat = frames.reshape(-1)
    if frames.shape[1] == 1:
        return flat if np.isfinite(np.dot(flat, flat)) else None
    mean = _mean(frames)
    energy, of_mean = float(np.dot(flat, flat)), float(np.dot(mean, mean))
    # The loudest channel has no more energy than all of them. A comparison with NaN is false.
    return mean if np.inf > of_mean > _SURELY * _threshold(energy, frames.shape[1]) else None


def exactly(read: Callable[[], Iterable[Samples]]) -> Samples:
    """Mixes finite blocks `[n, channels]` to `[frames]`, in the same way on any machine.

    Args:
        read: yields the blocks; it is called again if one channel alone is taken.
    """
    mono, energies = [np.zeros(0, np.float32)], np.zeros(1)
    for block in read():
        mono.append(_mean(block))
        energies = energies + np.square(block, dtype=np.float64).sum(axis=0)
    mean: Samples = np.concatenate(mono)
    of_mean = float(np.square(mean, dtype=np.float64).sum())
    if len(energies) > 1 and of_mean < _threshold(float(energies.max()), len(energies)):
        return np.concatenate([block[:, int(energies.argmax())] for block in read()])
    return mean


def _mean(frames: Samples) -> Samples:
    if frames.shape[1] == 1:
        return frames[:, 0]
    if frames.shape[1] == 2:  # the same numbers as below in a tenth of the time
        mean: Samples = frames[:, 0] + frames[:, 1]
        mean *= 0.5
        return mean
    return np.asarray(frames.mean(axis=1))


def _threshold(energy: float, channels: int) -> float:
    return energy * float(10.0 ** (CANCELLED_DB / 10.0)) / channels
