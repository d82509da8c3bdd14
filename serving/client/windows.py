"""Recordings to windows and windows back to one recording. Loads neither TensorFlow nor gRPC."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec


class Window(NamedTuple):
    """One window of a recording.

    Attributes:
        start_s: where it starts, in s.
        audio: `[samples]` float32, zero past the end of the recording.
    """

    start_s: float
    audio: NDArray[np.float32]


def windows_of_file(path: str | os.PathLike[str], spec: FeatureSpec, *, overlap_s: float = 0.0) -> Iterator[Window]:
    """Cuts an audio file into windows that cover all of it, reading one at a time.

    The last one ends with the recording and shares more with the one before, as
    in training; only a recording shorter than a window is padded.

    Args:
        path: audio file of any rate and channel count.
        spec: gives rate and window length.
        overlap_s: time that neighbours share, in s, to be cross-faded by `stitch`.

    Raises:
        AudioError: the file cannot be read as audio.
        UsageError: the overlap is negative or not shorter than half a window.
    """
    from tfpipe.audio.reader import TrackReader

    hop_s = spec.window_s - overlap_samples(spec, overlap_s) / spec.sample_rate
    with TrackReader(path) as reader:
        for start in reader.plan(spec=spec, hop_s=hop_s, min_fill=0.0):
            audio = reader.read(start, spec.samples, rate=spec.sample_rate)
            yield Window(start / spec.sample_rate, audio.astype(np.float32))


def overlap_samples(spec: FeatureSpec, overlap_s: float) -> int:
    """Returns an overlap in samples.

    Raises:
        UsageError: it is negative or more than half a window.
    """
    if not 0.0 <= overlap_s <= spec.window_s / 2:
        raise UsageError(f"an overlap of {overlap_s:g} s is out of range; use 0 to {spec.window_s / 2:g} s")
    return round(overlap_s * spec.sample_rate)


def stitch(windows: Iterable[tuple[int, NDArray[np.floating]]], *, overlap: int) -> Iterator[NDArray[np.float32]]:
    """Joins windows to one recording, neighbours cross-faded at equal power.

    Equal power, not equal gain: rebuilt phases of neighbours are unrelated, so
    a linear fade would dip by 3 dB in the middle.

    Args:
        windows: first sample and `[samples]` of each, in order, as `windows_of_file` gives them. What
            a window shares with the one before beyond `overlap` is taken from that one.
        overlap: samples that a cross-fade takes.

    Yields:
        The recording, piece by piece, float32; no more than two windows are held.
    """
    angle = (np.arange(overlap) + 0.5) / max(1, overlap) * np.pi / 2
    tail, end = np.zeros(0, np.float32), 0
    for start, window in windows:
        own = window.astype(np.float32)
        if end:
            own = own[end - overlap - start :]
            own[:overlap] = own[:overlap] * np.sin(angle) + tail * np.cos(angle)
        end = start + len(window)
        yield own[: len(own) - overlap]
        tail = own[len(own) - overlap :]
    yield tail


def interpolate(first: NDArray[np.floating], last: NDArray[np.floating], *, steps: int) -> NDArray[np.float32]:
    """Walks between two latent vectors on the sphere, length going linearly from one to the other.

    A standard normal latent keeps its mass near a sphere; a straight line cuts
    through its empty middle (White, 2016, "Sampling Generative Networks").

    Args:
        first: `[d]`.
        last: `[d]`.
        steps: points, both ends included.

    Returns:
        `[steps, d]` float32.

    Raises:
        UsageError: fewer than two steps.
    """
    if steps < 2:
        raise UsageError(f"an interpolation of {steps} steps has no two ends; use 2 or more")
    share = np.linspace(0.0, 1.0, steps)[:, np.newaxis]
    lengths = np.linalg.norm(first), np.linalg.norm(last)
    if min(lengths) < 1e-9:
        return ((1 - share) * first + share * last).astype(np.float32)
    ends = first / lengths[0], last / lengths[1]
    angle = np.arccos(np.clip(ends[0] @ ends[1], -1.0, 1.0))
    if np.sin(angle) < 1e-6:
        return ((1 - share) * first + share * last).astype(np.float32)
    direction = (np.sin((1 - share) * angle) * ends[0] + np.sin(share * angle) * ends[1]) / np.sin(angle)
    return (direction * ((1 - share) * lengths[0] + share * lengths[1])).astype(np.float32)
