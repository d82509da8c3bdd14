"""What the methods of `Client` return, as named tuples of NumPy arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Latent(NamedTuple):
    """The posterior of windows: `z_mean` and `z_log_var`, each `[n, d]`."""

    z_mean: FloatArray
    z_log_var: FloatArray


class Encoded(NamedTuple):
    """Windows of audio, encoded.

    Attributes:
        z_mean: `[n, d]`, mean of the posterior.
        z_log_var: `[n, d]`, logarithm of its variance.
        mel: `[n, n_mels, frames]`, log-mel in [0, 1].
        ref_db: `[n]`, level of each window in dB.
    """

    z_mean: FloatArray
    z_log_var: FloatArray
    mel: FloatArray
    ref_db: FloatArray


class EncodedWindows(NamedTuple):
    """Some windows of a file: `start_s` `[n]` in s, and the result of encoding them."""

    start_s: NDArray[np.float64]
    encoded: Encoded


class RebuiltWindows(NamedTuple):
    """Some windows of a file, encoded and decoded again.

    Attributes:
        start_s: `[n]`, start of each window in s.
        encoded: the result of encoding them.
        mel: `[n, n_mels, frames]`, decoded from `encoded.z_mean`, or from what it was changed to.
        audio: `[n, samples]`, decoded from the same.
    """

    start_s: NDArray[np.float64]
    encoded: Encoded
    mel: FloatArray
    audio: FloatArray


class Generated(NamedTuple):
    """Latents `z` `[n, d]` and what they decode to, `mel` `[n, n_mels, frames]`."""

    z: FloatArray
    mel: FloatArray


class VersionState(NamedTuple):
    """A version's number, its state such as `AVAILABLE`, and the error if it failed (else an empty text)."""

    version: int
    state: str
    error: str
