"""Describes windows by about 180 numbers that say what they sound like, for distances between sets of windows.

A distance between pixels would call two performances of one piece strangers, so windows are compared by statistics
that do not depend on when something happens. They are computed from the log-mel alone, the same on every machine:

- levels: mean and deviation of 16 groups of bands over time, and how loud the frames are;
- modulation: the power of the log-mel's two-dimensional spectrum by rate (Hz) and scale (cycles per band) in three
  ranges of frequency, as the auditory cortex is modelled by Chi, Ru and Shamma (2005), "Multiresolution
  spectrotemporal analysis of complex sounds". Syllables are rates of 2 to 8 Hz, harmonics are fine scales;
- onsets: how much and how suddenly the bands rise, and whether they rise faster than they fall;
- pitch: how much a few pitch classes stand out, and for how long they stay. Pitch classes are sorted by strength,
  so that a piece in another key is not another sound;
- timbre: how much the mel cepstrum varies, and how much it moves from frame to frame (formants).

`Whitening` makes the numbers comparable: each direction in which training windows vary counts about the same.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tfpipe.features.log_mel import mel_basis
from tfpipe.spec import FeatureSpec

Floats = NDArray[np.float32]

_GROUPS = 16
_REGIONS = 3
# Edges of the cells of the modulation spectrum: rates in Hz, scales in cycles per band.
_RATES_HZ = (0.0, 0.3, 1.0, 2.0, 4.0, 8.0, np.inf)
_SCALES = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, np.inf)
# Pitch classes are told apart where a band is narrower than a semitone and partials do not yet merge.
_PITCH_HZ = (350.0, 4000.0)
_PITCH_LAGS_S = (0.05, 0.2, 0.5, 1.0)
_CEPSTRUM = 12
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Keeps logarithms finite: about the power that the rounding to 8 bits leaves in a cell.
_LEAST = 1e-5
# A window whose maximum is below 1 is lifted, by so much at most, because inversion lifts it too.
_MOST_LIFT = 0.25
# Features further out than this many deviations count as this far. So one odd feature cannot decide a distance.
_CLIP = 5.0
# Directions in which training windows hardly vary are stretched by at most 1 / sqrt(_SHRINKAGE).
_SHRINKAGE = 0.1


class Whitening(NamedTuple):
    """Makes features comparable, fitted to training windows.

    Attributes:
        mean: `[features]`.
        deviation: `[features]`.
        matrix: `[features, features]`, the inverse root of the correlation matrix, shrunk towards the identity.
    """

    mean: Floats
    deviation: Floats
    matrix: Floats

    @classmethod
    def fit(cls, features: Floats) -> Whitening:
        """Fits it to `features` `[n, features]` of training windows."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        deviation = np.where(deviation > 1e-6, deviation, 1.0)
        rows = np.clip((features - mean) / deviation, -_CLIP, _CLIP).astype(np.float64)
        correlation = rows.T @ rows / max(1, len(rows))
        values, vectors = np.linalg.eigh((1.0 - _SHRINKAGE) * correlation + _SHRINKAGE * np.eye(len(correlation)))
        return cls(mean, deviation.astype(np.float32), ((vectors / np.sqrt(values)) @ vectors.T).astype(np.float32))

    def apply(self, features: Floats) -> Floats:
        """Returns the embedding `[n, features]` of `features` `[n, features]`."""
        rows = np.clip((features - self.mean) / self.deviation, -_CLIP, _CLIP)
        return np.asarray(rows @ self.matrix, np.float32)


def describe_windows(mels: NDArray[np.floating[Any]], spec: FeatureSpec) -> Floats:
    """Returns the features of windows, `[n, features]`; their number depends on the spec alone.

    Args:
        mels: `[n, n_mels, frames]` in [0, 1].
        spec: the feature spec.
    """
    mels = np.asarray(mels, np.float32)
    mels = mels + np.minimum(1.0 - mels.max(axis=(1, 2), keepdims=True), _MOST_LIFT) * (mels > 0.0)
    parts = (_levels(mels), _modulation(mels, spec), _onsets(mels), _pitch(mels, spec), _timbre(mels))
    return np.concatenate([part.reshape(len(mels), -1) for part in parts], axis=1).astype(np.float32)


def _levels(mels: Floats) -> Floats:
    """Returns mean and deviation of groups of bands, and quantiles of the frames' mean level."""
    groups = np.stack([part.mean(axis=1) for part in _split(mels, _GROUPS)], axis=1)
    loudness = np.quantile(mels.mean(axis=1), _QUANTILES, axis=1).T
    return np.concatenate([groups.mean(axis=2), groups.std(axis=2), loudness], axis=1)


def _modulation(mels: Floats, spec: FeatureSpec) -> Floats:
    """Returns the log power of the modulation spectrum in cells of rate and scale, for each range of frequency."""
    found = []
    for part in _split(mels, _REGIONS):
        taper = np.outer(_hann(part.shape[1]), _hann(part.shape[2])).astype(np.float32)
        taper /= np.sqrt(np.square(taper).sum())
        power = np.square(np.abs(scipy.fft.rfft2((part - part.mean(axis=(1, 2), keepdims=True)) * taper, workers=1)))
        by_rate = power @ _cells(np.arange(power.shape[2]) * spec.sample_rate / spec.hop / part.shape[2], _RATES_HZ)
        scales = np.abs(scipy.fft.fftfreq(part.shape[1]))
        found.append(np.log(np.einsum("nbr,bs->nsr", by_rate, _cells(scales, _SCALES)) + _LEAST))
    return np.stack(found, axis=1)


def _onsets(mels: Floats) -> Floats:
    """Returns, for each range of frequency, how much the bands rise, how unevenly over time, and against falling."""
    found = []
    for part in _split(mels, _REGIONS):
        steps = np.diff(part, axis=2, prepend=part[:, :, :1])
        rise, fall = np.maximum(steps, 0.0), np.maximum(-steps, 0.0)
        flux = rise.mean(axis=1)
        mean = flux.mean(axis=1) + _LEAST
        skew = np.square(rise).mean(axis=(1, 2)) + _LEAST, np.square(fall).mean(axis=(1, 2)) + _LEAST
        found += [np.log(mean), flux.std(axis=1) / mean, np.quantile(flux, 0.95, axis=1) / mean, np.log(skew[0] / skew[1])]
    return np.stack(found, axis=1)


def _pitch(mels: Floats, spec: FeatureSpec) -> Floats:
    """Returns how much the strongest pitch classes stand out, in the mean and by frame, and for how long they stay."""
    classes = np.einsum("nbt,bc->nct", _fine(mels), _pitch_classes(spec))
    size = np.sqrt(np.square(classes).sum(axis=1, keepdims=True))
    profile = np.sort(classes.mean(axis=2), axis=1)[:, ::-1]
    found = [profile, (classes.max(axis=1) / (size[:, 0] + 1e-3)).mean(axis=1, keepdims=True)]
    unit = classes / (size + 1e-3)
    for lag_s in _PITCH_LAGS_S:
        lag = min(max(1, round(lag_s * spec.sample_rate / spec.hop)), mels.shape[2] - 1)
        alike = (unit[:, :, lag:] * unit[:, :, : unit.shape[2] - lag]).sum(axis=1)
        found.append(alike.mean(axis=1, keepdims=True))
    return np.concatenate(found, axis=1)


def _timbre(mels: Floats) -> Floats:
    """Returns the deviation of the mel cepstrum over time, and the mean size of its steps."""
    cepstrum = scipy.fft.dct(mels, axis=1, norm="ortho")[:, 1 : _CEPSTRUM + 1]
    steps = np.abs(np.diff(cepstrum, axis=2, prepend=cepstrum[:, :, :1])).mean(axis=2)
    return np.log(np.concatenate([cepstrum.std(axis=2), steps], axis=1) + 1e-3)


def _fine(mels: Floats) -> Floats:
    """Returns how far each band stands above the mean of the bands around it."""
    reach = min(5, mels.shape[1] - 1)
    padded = np.pad(mels, ((0, 0), (reach + 1, reach), (0, 0)), mode="edge").cumsum(axis=1, dtype=np.float64)
    around = (padded[:, 2 * reach + 1 :] - padded[:, : -2 * reach - 1]) / (2 * reach + 1)
    return np.maximum(mels - around[:, : mels.shape[1]], 0.0).astype(np.float32)


@functools.lru_cache(maxsize=16)
def band_centres(spec: FeatureSpec) -> NDArray[np.float64]:
    """Returns the mean frequency of each mel filter, `[n_mels]`, Hz."""
    basis = mel_basis(spec).toarray()
    hz = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    return np.asarray(basis @ hz / basis.sum(axis=1))


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


def _cells(values: NDArray[np.floating[Any]], edges: tuple[float, ...]) -> Floats:
    """Returns which cell between `edges` each value falls into, `[values, cells]` of 0 and 1."""
    at = np.asarray(edges)
    return ((values[:, None] >= at[:-1]) & (values[:, None] < at[1:])).astype(np.float32)


def _hann(size: int) -> NDArray[np.float64]:
    """Returns a Hann window without zeros at its ends."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * (np.arange(size) + 0.5) / size)
