"""Cuts recordings into windows and joins windows to a recording. Loads neither TensorFlow nor gRPC."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec


class Window(NamedTuple):
    """One window of a recording.

    Attributes:
        start_s: start of the window in the recording, in s.
        audio: `[samples]` float32, zero after the end of the recording.
    """

    start_s: float
    audio: NDArray[np.float32]


def windows_of_file(path: str | os.PathLike[str], spec: FeatureSpec, *, overlap_s: float = 0.0) -> Iterator[Window]:
    """Cuts an audio file into windows that cover all of it; reads one window at a time.

    The last window ends with the recording, so it can share more than `overlap_s` with the one before. The job cuts
    windows for training in the same way. Only a recording that is shorter than a window is padded.

    Args:
        path: audio file of any sample rate and number of channels.
        spec: gives sample rate and window length.
        overlap_s: time that neighbouring windows share, in s; `stitch` cross-fades it.

    Raises:
        AudioError: the file cannot be read as audio.
        UsageError: the overlap is negative or more than half a window.
    """
    from tfpipe.audio.reader import TrackReader

    hop_s = spec.window_s - overlap_samples(spec, overlap_s) / spec.sample_rate
    with TrackReader(path) as reader:
        for start in reader.plan(spec=spec, hop_s=hop_s, min_fill=0.0):
            audio = reader.read(start, spec.samples, rate=spec.sample_rate)
            yield Window(start / spec.sample_rate, audio.astype(np.float32))


def last_window(path: str | os.PathLike[str], spec: FeatureSpec) -> NDArray[np.float32]:
    """Returns the window `[samples]` with which an audio file ends.

    Raises:
        AudioError: the file cannot be read as audio.
        UsageError: the file is shorter than a window.
    """
    from tfpipe.audio.reader import TrackReader

    with TrackReader(path) as reader:
        start = round(reader.info.seconds * spec.sample_rate) - spec.samples
        if start < 0:
            raise UsageError(f"{path}: shorter than one window of {spec.window_s:g} s; use a longer recording")
        return reader.read(start, spec.samples, rate=spec.sample_rate).astype(np.float32)


def overlap_samples(spec: FeatureSpec, overlap_s: float) -> int:
    """Returns an overlap in samples.

    Raises:
        UsageError: the overlap is negative or more than half a window.
    """
    if not 0.0 <= overlap_s <= spec.window_s / 2:
        raise UsageError(f"an overlap of {overlap_s:g} s is out of range; use 0 to {spec.window_s / 2:g} s")
    return round(overlap_s * spec.sample_rate)


def stitch(windows: Iterable[tuple[int, NDArray[np.floating[Any]]]], *, overlap: int) -> Iterator[NDArray[np.float32]]:
    """Joins windows to one recording and cross-fades neighbours at equal power.

    Phases are rebuilt for each window alone, so neighbours are uncorrelated: a linear fade (equal gain) would lose 3 dB
    in the middle, a fade at equal power loses nothing.

    Args:
        windows: start in samples and audio `[samples]` of each window, in order, as `windows_of_file` cuts them. If a
            window shares more than `overlap` with the one before, the earlier window is used for the rest.
        overlap: length of a cross-fade in samples.

    Yields:
        The recording in pieces, float32. No more than two windows are in memory.
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


def interpolate(
    first: NDArray[np.floating[Any]], last: NDArray[np.floating[Any]], *, steps: int
) -> NDArray[np.float32]:
    """Interpolates between two latent vectors: the direction moves on the sphere, the length changes linearly.

    A standard normal distribution of many dimensions has its mass near a sphere. A straight line would lead through the
    empty middle (White, 2016, "Sampling Generative Networks").

    Args:
        first: `[d]`.
        last: `[d]`.
        steps: number of points, both ends included.

    Returns:
        `[steps, d]` float32.

    Raises:
        UsageError: fewer than two steps.
    """
    if steps < 2:
        raise UsageError(f"an interpolation needs both ends, so at least 2 steps; {steps} were given")
    share = np.linspace(0.0, 1.0, steps)[:, np.newaxis]
    lengths = np.linalg.norm(first), np.linalg.norm(last)
    if min(lengths) < 1e-9:
        return ((1 - share) * first + share * last).astype(np.float32)
    ends = first / lengths[0], last / lengths[1]
    angle = np.arccos(np.clip(ends[0] @ ends[1], -1.0, 1.0))
    if np.sin(angle) < 1e-6:
        return ((1 - share) * first + share * last).astype(np.float32)
    direction = (np.sin((1 - share) * angle) * ends[0] + np.sin(share * angle) * ends[1]) / np.sin(angle)
    return np.asarray(direction * ((1 - share) * lengths[0] + share * lengths[1]), np.float32)
