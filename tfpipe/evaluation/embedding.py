"""Describes windows by about 110 numbers that say what they sound like, for distances between sets of windows.

A distance between pixels would call two performances of one piece strangers, so windows are compared by statistics
that do not depend on when something happens. They are computed from the log-mel alone, the same on every machine:

- levels: mean and deviation of 16 groups of bands over time, and how loud the frames are;
- rhythm: autocorrelations of the bands in three ranges of frequency at lags from 0.05 to 1.6 s. They are the Fourier
  transform of the modulation spectrum, in which syllables (2 to 8 Hz) and beats show;
- lines: autocorrelations of what stands above the neighbouring bands, such as harmonics, at lags up to 0.8 s: how long
  notes and vowels are held;
- change: quantiles of the difference between the 0.1 s before and after each frame: attacks, syllables, jumps;
- onsets: how unevenly the bands rise over time, and whether they rise faster than they fall;
- pitch: how much a few pitch classes stand out, and for how long they stay. Pitch classes are sorted by strength,
  so that a piece in another key is not another sound.

`Whitening` makes the numbers comparable. A direction counts by how much windows differ in it against how much a
slight blur and faint noise change it. Without this, each model would be judged by the finest texture, which every
autoencoder loses a little of, and hardly by notes, words and rhythm.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from tfpipe.evaluation.bands import band_centres
from tfpipe.spec import FeatureSpec

Floats = NDArray[np.float32]

_GROUPS = 16
_REGIONS = 3
_RHYTHM_LAGS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_LINE_LAGS_S = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
# Groups of bands in a range of frequency, and in all of them.
_REGION_GROUPS, _CHANGE_GROUPS = 10, 32
_CHANGE_S = 0.1
_CHANGE_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
# Pitch classes are told apart where a band is narrower than a semitone and partials do not yet merge.
_PITCH_HZ = (350.0, 4000.0)
_PITCH_LAGS_S = (0.05, 0.2, 0.5, 1.0)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_PIECE_S = 0.19
# Keeps ratios and logarithms finite: a variation by less than 0.01 counts as none.
_LEAST = 1e-4
# A window whose maximum is below 1 is raised to 1, but by no more than this, because inversion raises it too.
_MOST_LIFT = 0.25
# A feature is cut at this many deviations from the mean, so that one odd feature cannot decide a distance.
_CLIP = 8.0
# The harmless changes: the standard deviation of a blur, in bands and frames, and that of added noise.
_BLUR, _NOISE = 1.0, 0.02
# Weights of the training windows' correlation and of the identity, which are added to the matrix of the harmless
# changes. Without them, a direction that hardly varies would be stretched without limit. Chosen on the corpus of
# docs/EVALUATION.md.
_SHARE, _SHRINKAGE = 0.03, 0.5


class Whitening(NamedTuple):
    """Makes features comparable, fitted to training windows.

    With features in units of the training windows' deviation, C their correlation and N the mean square of their
    change under harmless changes, the embedding is `(0.03 C + N + 0.5 I)^(-1/2)` times the features. Speaker
    recognition does the same with the changes within a speaker (Hatch, Kajarekar and Stolcke, 2006, WCCN).

    Attributes:
        mean: `[features]`.
        deviation: `[features]`.
        matrix: `[features, features]`.
    """

    mean: Floats
    deviation: Floats
    matrix: Floats

    @classmethod
    def fit(cls, features: Floats, mels: Floats, spec: FeatureSpec) -> Whitening:
        """Fits it to training windows.

        Args:
            features: `[n, features]` of training windows.
            mels: the first `k` of these windows, `[k, n_mels, frames]`; 100 to 200 are enough.
            spec: the feature spec.
        """
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        deviation = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
        units = np.clip((features - mean) / deviation, -_CLIP, _CLIP).astype(np.float64)
        inner = _SHARE * units.T @ units / len(units) + _SHRINKAGE * np.eye(len(mean))
        for changed in harmless(mels):
            change = (describe_windows(changed, spec) - features[: len(mels)]) / deviation
            change = np.clip(change, -_CLIP, _CLIP).astype(np.float64)
            inner += change.T @ change / len(change)
        values, vectors = np.linalg.eigh(inner)
        return cls(mean, deviation, ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32))

    def apply(self, features: Floats) -> Floats:
        """Returns the embedding `[n, features]` of `features` `[n, features]`."""
        units = np.clip((features - self.mean) / self.deviation, -_CLIP, _CLIP)
        return np.asarray(units @ self.matrix, np.float32)


def harmless(mels: Floats) -> tuple[Floats, Floats]:
    """Returns windows slightly blurred, and with faint noise, each `[n, n_mels, frames]`."""
    noise = np.random.default_rng(0).standard_normal(mels.shape, dtype=np.float32)
    blurred = scipy.ndimage.gaussian_filter(mels, (0.0, _BLUR, _BLUR), truncate=3.0)
    return blurred, np.clip(mels + _NOISE * noise, 0.0, 1.0)


def describe_windows(mels: NDArray[np.floating[Any]], spec: FeatureSpec) -> Floats:
    """Returns the features of windows, `[n, features]`; their number depends on the spec alone.

    Args:
        mels: `[n, n_mels, frames]` in [0, 1].
        spec: the feature spec.
    """
    mels = np.asarray(mels, np.float32)
    mels = mels + np.minimum(1.0 - mels.max(axis=(1, 2), keepdims=True), _MOST_LIFT) * (mels > 0.0)
    fine = _fine(mels)
    parts = (
        _levels(mels),
        _rhythm(mels, spec),
        _lines(fine, spec),
        _change(mels, spec),
        _onsets(mels),
        _pitch(fine, spec),
    )
    return np.asarray(np.concatenate([part.reshape(len(mels), -1) for part in parts], axis=1), np.float32)


def _levels(mels: Floats) -> Floats:
    """Returns mean and deviation of groups of bands, and quantiles of the frames' mean level."""
    groups = np.stack([part.mean(axis=1) for part in _split(mels, _GROUPS)], axis=1)
    loudness = np.quantile(mels.mean(axis=1), _QUANTILES, axis=1).T
    return np.concatenate([groups.mean(axis=2), groups.std(axis=2), loudness], axis=1)


def _rhythm(mels: Floats, spec: FeatureSpec) -> Floats:
    """Returns the autocorrelations of the bands, in small groups, for each range of frequency."""
    found = []
    for part in _split(mels, _REGIONS):
        groups = np.stack([group.mean(axis=1) for group in _split(part, _REGION_GROUPS)], axis=1)
        found.append(_autocorrelation(groups, _RHYTHM_LAGS_S, spec))
    return np.concatenate(found, axis=1)


def _lines(fine: Floats, spec: FeatureSpec) -> Floats:
    """Returns the autocorrelations of the fine structure, for each range of frequency."""
    return np.concatenate([_autocorrelation(part, _LINE_LAGS_S, spec) for part in _split(fine, _REGIONS)], axis=1)


def _autocorrelation(rows: Floats, lags_s: tuple[float, ...], spec: FeatureSpec) -> Floats:
    """Returns the autocorrelation of `[n, rows, frames]` along time, of all rows together, `[n, lags]`."""
    centred = rows - rows.mean(axis=2, keepdims=True)
    power = np.square(centred).mean(axis=(1, 2)) + _LEAST
    found = []
    for lag_s in lags_s:
        lag = _frames(lag_s, spec, most=rows.shape[2] - 1)
        found.append((centred[:, :, lag:] * centred[:, :, : rows.shape[2] - lag]).mean(axis=(1, 2)) / power)
    return np.stack(found, axis=1)


def _change(mels: Floats, spec: FeatureSpec) -> Floats:
    """Returns log quantiles of the distance between the mean spectra just before and just after each frame."""
    reach = _frames(_CHANGE_S, spec, most=max(1, mels.shape[2] // 2))
    groups = np.stack([group.mean(axis=1) for group in _split(mels, _CHANGE_GROUPS)], axis=1)
    sums = np.pad(groups, ((0, 0), (0, 0), (1, 0))).cumsum(axis=2)
    means = (sums[:, :, reach:] - sums[:, :, :-reach]) / reach
    later = means[:, :, min(reach, means.shape[2] - 1) :]
    steps = np.sqrt(np.square(later - means[:, :, : later.shape[2]]).mean(axis=1))
    return np.asarray(np.log(np.quantile(steps, _CHANGE_QUANTILES, axis=1).T + 1e-2), np.float32)


def _frames(seconds: float, spec: FeatureSpec, *, most: int) -> int:
    """Returns seconds in frames, from 1 to `most`; 0 if even one is too many."""
    return min(max(1, round(seconds * spec.sample_rate / spec.hop)), most)


def _onsets(mels: Floats) -> Floats:
    """Returns how much the bands of each range rise, how unevenly over time, and the ratio of rising to falling."""
    found = []
    for part in _split(mels, _REGIONS):
        steps = np.diff(part, axis=2, prepend=part[:, :, :1])
        rise, fall = np.maximum(steps, 0.0), np.maximum(-steps, 0.0)
        flux = rise.mean(axis=1)
        mean = flux.mean(axis=1) + _LEAST
        skew = np.square(rise).mean(axis=(1, 2)) + _LEAST, np.square(fall).mean(axis=(1, 2)) + _LEAST
        found += [
            np.log(mean),
            flux.std(axis=1) / mean,
            np.quantile(flux, 0.95, axis=1) / mean,
            np.log(skew[0] / skew[1]),
        ]
    return np.stack(found, axis=1)


def _pitch(fine: Floats, spec: FeatureSpec) -> Floats:
    """Returns how much the strongest pitch classes stand out, on average and in each frame, and how long they stay."""
    classes = _pitch_classes(spec).T @ fine
    size = np.sqrt(np.square(classes).sum(axis=1, keepdims=True))
    profile = np.sort(classes.mean(axis=2), axis=1)[:, ::-1]
    found = [profile, (classes.max(axis=1) / (size[:, 0] + 1e-3)).mean(axis=1, keepdims=True)]
    unit = classes / (size + 1e-3)
    for lag_s in _PITCH_LAGS_S:
        lag = _frames(lag_s, spec, most=fine.shape[2] - 1)
        alike = (unit[:, :, lag:] * unit[:, :, : unit.shape[2] - lag]).sum(axis=1)
        found.append(alike.mean(axis=1, keepdims=True))
    return np.concatenate(found, axis=1)


def _fine(mels: Floats) -> Floats:
    """Returns how far each band stands above the mean of the bands around it."""
    reach = min(5, mels.shape[1] - 1)
    around = scipy.ndimage.uniform_filter1d(mels, 2 * reach + 1, axis=1, mode="nearest")
    return np.asarray(np.maximum(mels - around, 0.0))


def out_of_order(mels: Floats, spec: FeatureSpec, *, seed: int) -> Floats:
    """Returns windows cut into pieces of about 0.2 s and put together in random order, `[n, n_mels, frames]`."""
    piece = max(1, round(_PIECE_S * spec.sample_rate / spec.hop))
    rng = np.random.default_rng(seed)
    frames = np.arange(mels.shape[2])
    orders = [
        frames[np.argsort(rng.permutation(frames[-1] // piece + 1)[frames // piece], kind="stable")] for _ in mels
    ]
    return np.stack([mel[:, order] for mel, order in zip(mels, orders, strict=True)])


@functools.lru_cache(maxsize=16)
def _pitch_classes(spec: FeatureSpec) -> Floats:
    """Returns the share of each band in each pitch class, `[n_mels, 12]`."""
    centres = band_centres(spec)
    position = 12.0 * np.log2(centres / 440.0) % 12.0
    lower = np.floor(position).astype(int) % 12
    weights = np.zeros((spec.n_mels, 12), np.float32)
    inside = (centres >= _PITCH_HZ[0]) & (centres <= _PITCH_HZ[1])
    share = position - np.floor(position)
    rows = np.flatnonzero(inside)
    weights[rows, lower[rows]] = 1.0 - share[rows]
    weights[rows, (lower[rows] + 1) % 12] += share[rows]
    return weights / max(1, len(rows) / 12)


def _split(mels: Floats, count: int) -> list[Floats]:
    """Cuts the bands into at most `count` groups of neighbours."""
    return list(np.array_split(mels, min(count, mels.shape[1]), axis=1))
