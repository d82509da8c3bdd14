"""Turns log-mel windows into audio as TensorFlow ops, without iterations over the audio.

Every row of a batch is computed alone, in three steps that can be part of a SavedModel:

1. STFT magnitudes are estimated from the mel bands. A trained network can correct them (`tfpipe.model.magnitudes`).
2. Phases follow from the magnitudes. The log-magnitude of an STFT tells how its phase changes from frame to frame
   and from bin to bin (Prusa, Balazs and Sondergaard, 2017, "A Noniterative Method for Reconstruction of Phase from
   STFT Magnitude"). Their method, PGHI, adds up these changes bin by bin, the loudest bins first. Here all bins of a
   spectral peak take their phase from the peak, and a peak takes its phase from the frame before, so that all bins of
   all frames can be computed at the same time.
3. The inverse STFT gives the audio.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.features.log_mel import mel_basis
from tfpipe.spec import MISSING_DB, FeatureSpec

# Steps of the multiplicative update that fits the STFT magnitudes to the mel bands.
_FIT_STEPS = 4
# The first estimate is raised to this power: peaks come out narrower than the mel bands are.
_SHARPNESS = 1.5
# A Hann window of n samples is close to a Gaussian exp(-pi * t^2 / (_GAMMA * n^2)) (Prusa et al., 2017, Table 1).
_GAMMA = 0.25645
# Values that are summed by one matrix product.
_SUMMED = 32
# Levels beyond this are cut, because float32 could not hold the audio. Recordings lie between -100 and 30 dB.
_REF_DB_LIMIT = 300.0
# A band this far below the largest is as good as silent, and is not divided by.
_FLOOR = 1e-12
# A correction keeps the natural log of a magnitude, relative to the loudest band, between these two. Below the lower
# one (-113 dB of sound) the magnitude becomes 0.
FAINTEST_LOG, LOUDEST_LOG = -13.0, 5.0


# Takes a log-mel `[n, frames, n_mels]`, and gives what is added to the natural log of its magnitudes
# `[n, frames, covered bins]`.
Correct = Callable[[tf.Tensor], tf.Tensor]


def invert_log_mel(
    mel: tf.Tensor, ref_db: tf.Tensor, spec: FeatureSpec, *, correct: Correct | None = None
) -> tf.Tensor:
    """Inverts log-mel windows to audio.

    The maximum of a log-mel is 1 by definition, but that of a decoded one is usually a little lower, because a model
    blurs. The difference is added to the whole row (20 dB at most), so that its loudest point has the level `ref_db`.

    Args:
        mel: `[n, n_mels, frames]` in [0, 1]. Where it is 0, there is no sound.
        ref_db: `[n]`, level of each window's maximum, dB.
        spec: the feature spec.
        correct: corrects the magnitudes; None leaves them as they are estimated.

    Returns:
        audio `[n, samples]` float32; a value can be above full scale (1.0). A row with NaN in `mel` is NaN.
    """

    # A row's arrays fit into the processor's cache, those of a batch do not, and several rows run at a time.
    def one(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return _inverted(row[0][tf.newaxis], row[1][tf.newaxis], spec, correct)[0]

    return tf.map_fn(one, (mel, ref_db), fn_output_signature=tf.TensorSpec([spec.samples], tf.float32))


def _inverted(mel: tf.Tensor, ref_db: tf.Tensor, spec: FeatureSpec, correct: Correct | None) -> tf.Tensor:
    """Does what `invert_log_mel` does, for a batch `[1, n_mels, frames]` of one row."""
    full = levelled(mel, spec)
    magnitude = estimated_magnitude(full, spec)
    if correct is not None:
        magnitude = corrected(magnitude, correct(tf.transpose(full, [0, 2, 1])))
    audio = _inverse_stft(magnitude, _phases(magnitude, spec), spec)
    audio *= _lost_level(magnitude, audio, spec)
    level = tf.clip_by_value(tf.cast(ref_db, tf.float32), -_REF_DB_LIMIT, _REF_DB_LIMIT)
    # A row that holds NaN counts as silent until here.
    level = tf.where(tf.reduce_any(tf.math.is_nan(mel), axis=[1, 2]), math.nan, level)
    return audio * tf.pow(10.0, level / (10.0 * spec.power))[:, tf.newaxis]


def levelled(mel: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns a log-mel of the same shape whose maximum is 1 again, or 20 dB of sound nearer to 1; NaN becomes 0."""
    mel = tf.where(mel > 0.0, tf.minimum(tf.cast(mel, tf.float32), 1.0), 0.0)
    missing = 1.0 - tf.reduce_max(mel, axis=[1, 2], keepdims=True)
    return tf.where(mel > 0.0, mel + tf.minimum(missing, MISSING_DB / 2.0 * spec.power / spec.top_db), 0.0)


def corrected(magnitude: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """Returns magnitudes with a change of their natural log; where there is no sound, there is none afterwards.

    Args:
        magnitude: `[n, frames, covered bins]`, about 1 at the loudest point.
        change: of the same shape.
    """
    log = tf.minimum(log_magnitude(magnitude) + change, LOUDEST_LOG)
    return tf.where((magnitude > 0.0) & (log > FAINTEST_LOG + 0.5), tf.exp(log), 0.0)


def log_magnitude(magnitude: tf.Tensor) -> tf.Tensor:
    """Returns the natural log of magnitudes, and `FAINTEST_LOG` where it would be less."""
    return tf.maximum(tf.math.log(magnitude + 1e-9), FAINTEST_LOG)


def covered_bins(spec: FeatureSpec) -> tuple[int, int]:
    """Returns the first bin of the STFT that the mel bands cover, and the number of covered bins."""
    filters = _filters(spec)
    return filters.first, filters.basis.shape[1]


def estimated_magnitude(full: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Estimates STFT magnitudes `[n, frames, covered bins]` for log-mels `[n, n_mels, frames]` from `levelled`.

    The first estimate interpolates the bands over frequency and narrows the peaks. Multiplicative updates then fit it
    to the bands by Kullback-Leibler divergence (Lee and Seung, 2001). They keep it non-negative and the peaks narrow.
    """
    # A mel of 0 means top_db or more below the maximum. The true level is unknown, so it is taken as no sound.
    bands = tf.where(full > 0.0, tf.exp((full - 1.0) * (spec.top_db * math.log(10.0) / 10.0)), 0.0)
    bands = tf.transpose(bands, [0, 2, 1])
    filters = _filters(spec)
    density = tf.math.log(tf.maximum(bands / filters.basis.sum(axis=1), _FLOOR))
    estimate = tf.exp(_SHARPNESS * tf.tensordot(density, tf.constant(filters.interpolation), 1))
    to_bands = tf.constant(np.ascontiguousarray(filters.basis.T))
    to_bins = tf.constant(filters.basis / filters.basis.sum(axis=0))
    for _ in range(_FIT_STEPS):
        fitted = tf.tensordot(estimate, to_bands, 1)
        estimate *= tf.tensordot(bands / (fitted + _FLOOR**2), to_bins, 1)
    return estimate if spec.power == 1.0 else tf.sqrt(estimate)


def _phases(magnitude: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Estimates the phases `[n, frames, covered bins]` of STFT magnitudes, at the centre of each frame.

    A bin's phase is that of its peak, plus the integral of the change from bin to bin between the two. A peak's phase
    is that of the same bin in the frame before, plus the change from frame to frame.
    """
    loudest = tf.reduce_max(magnitude, axis=[1, 2], keepdims=True)
    log_magnitude = tf.math.log(tf.maximum(magnitude, loudest * 1e-10) + 1e-30)
    ratio = _GAMMA * spec.n_fft / spec.hop
    per_bin, per_frame = -ratio * _slope(log_magnitude, axis=1), _slope(log_magnitude, axis=2) / ratio
    # Both integrals are sums by the trapezoid rule.
    along_bins = _running_sum(per_bin) - (per_bin + per_bin[:, :, :1]) / 2.0
    means = (per_frame[:, 1:] + per_frame[:, :-1]) / 2.0
    along_frames = tf.pad(means, [[0, 0], [1, 0], [0, 0]]) + tf.constant(_filters(spec).advance)
    hills = _hills(magnitude)
    # The phase of a bin is `along_bins` plus an offset that its whole hill shares. The offset of a hill is that of the
    # hill before it in time plus a step.
    position = hills.peak
    earlier = tf.maximum(position - magnitude.shape[2], 0)
    step = tf.gather(_flat(along_frames - along_bins), position)
    step += tf.where(hills.has_earlier, tf.gather(_flat(along_bins), earlier), 0.0)
    source = tf.where(hills.has_earlier, tf.gather(_flat(hills.number), earlier), tf.size(position))
    return along_bins + tf.gather(_follow(step, source, frames=spec.frames), hills.number)


class _Hills(NamedTuple):
    """The peaks of every frame; each bin belongs to the peak that is reached by going to the louder neighbour.

    Attributes:
        number: `[n, frames, bins]`, the number of each bin's peak. One count goes through all rows and frames.
        peak: `[peaks]`, position of each peak in the flat list of all bins.
        has_earlier: `[peaks]`, whether the peak's row has an earlier frame.
    """

    number: tf.Tensor
    peak: tf.Tensor
    has_earlier: tf.Tensor


def _hills(magnitude: tf.Tensor) -> _Hills:
    frames, bins = magnitude.shape[1:]
    padded = tf.pad(magnitude, [[0, 0], [0, 0], [1, 1]], constant_values=-1.0)
    below, above = padded[:, :, :-2], padded[:, :, 2:]
    rising = (above > magnitude) & (above >= below)
    is_peak = ~rising & (below <= magnitude)
    # A bin belongs to the last peak below it, or, where the magnitude still rises, to the next peak above it.
    within = tf.cast(_running_sum(tf.cast(is_peak, tf.float32)), tf.int32)
    before = tf.reshape(tf.cumsum(_flat(within[:, :, -1]), exclusive=True), [-1, frames, 1])
    number = within + (before - 1) + tf.cast(rising, tf.int32)
    peak = tf.cast(tf.where(_flat(is_peak))[:, 0], tf.int32)
    return _Hills(number, peak, peak % (frames * bins) >= bins)


def _follow(step: tf.Tensor, source: tf.Tensor, *, frames: int) -> tf.Tensor:
    """Solves phase[i] = step[i] + phase[source[i]], modulo 2 pi, for chains of at most `frames` peaks.

    A chain ends where `source` is the number of peaks. In each round a peak reaches twice as far back as before.
    """
    step, source = tf.concat([_wrap(step), [0.0]], 0), tf.concat([source, [tf.size(source)]], 0)
    for _ in range(math.ceil(math.log2(frames))):
        step, source = _wrap(step + tf.gather(step, source)), tf.gather(source, source)
    return step


def _flat(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1])


def _running_sum(values: tf.Tensor) -> tf.Tensor:
    """Returns the sums of all values up to each one, along axis 2 of `[n, frames, bins]`.

    Matrix products sum blocks, and then the blocks' sums. This takes a third of the time of `tf.cumsum`.
    """
    frames, bins = values.shape[1:]
    count = -(-bins // _SUMMED)
    blocks = tf.reshape(tf.pad(values, [[0, 0], [0, 0], [0, count * _SUMMED - bins]]), [-1, frames, count, _SUMMED])
    sums = tf.tensordot(blocks, tf.linalg.band_part(tf.ones([_SUMMED, _SUMMED]), 0, -1), 1)
    above = tf.linalg.band_part(tf.ones([count, count]), 0, -1) - tf.eye(count)
    sums += tf.tensordot(sums[..., -1], above, 1)[..., tf.newaxis]
    return tf.reshape(sums, [-1, frames, count * _SUMMED])[:, :, :bins]


def _slope(values: tf.Tensor, *, axis: int) -> tf.Tensor:
    """Returns central differences along axis 1 or 2 of `[n, frames, bins]`."""
    if axis == 1:
        padded = tf.pad(values, [[0, 0], [1, 1], [0, 0]], "SYMMETRIC")
        return (padded[:, 2:] - padded[:, :-2]) / 2.0
    padded = tf.pad(values, [[0, 0], [0, 0], [1, 1]], "SYMMETRIC")
    return (padded[:, :, 2:] - padded[:, :, :-2]) / 2.0


def _wrap(phase: tf.Tensor) -> tf.Tensor:
    """Returns a phase between -pi and pi, so that long sums stay exact."""
    return phase - 2.0 * math.pi * tf.round(phase / (2.0 * math.pi))


def _inverse_stft(magnitude: tf.Tensor, phase: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the audio `[n, spec.samples]`: overlap-add, divided by the sum of the squared windows."""
    filters = _filters(spec)
    stft = tf.complex(magnitude * tf.cos(phase), magnitude * tf.sin(phase)) * filters.centre
    stft = tf.pad(stft, [[0, 0], [0, 0], [filters.first, spec.bins - filters.first - magnitude.shape[2]]])
    frames = tf.signal.irfft(stft, [spec.n_fft]) * tf.signal.hann_window(spec.n_fft, periodic=True)
    signal = _overlap_added(frames, spec) / tf.constant(_window_overlap(spec))
    start = spec.n_fft // 2
    missing = max(0, start + spec.samples - ((spec.frames - 1) * spec.hop + spec.n_fft))
    return tf.pad(signal, [[0, 0], [0, missing]])[:, start : start + spec.samples]


def _overlap_added(frames: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Adds frames `[n, frames, n_fft]` at distances of a hop, to `[n, (frames - 1) * hop + n_fft]`.

    A sum of shifted parts takes a third of the time of `tf.signal.overlap_and_add`, which moves the whole array twice.
    """
    parts = -(-spec.n_fft // spec.hop)
    if spec.n_fft % spec.hop:
        frames = tf.pad(frames, [[0, 0], [0, 0], [0, parts * spec.hop - spec.n_fft]])
    shifted = [
        tf.pad(frames[:, :, part * spec.hop : (part + 1) * spec.hop], [[0, 0], [part, parts - 1 - part], [0, 0]])
        for part in range(parts)
    ]
    length = (spec.frames + parts - 1) * spec.hop
    return tf.reshape(tf.add_n(shifted), [-1, length])[:, : (spec.frames - 1) * spec.hop + spec.n_fft]


def _lost_level(magnitude: tf.Tensor, audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Returns the factors `[n, 1]` that give audio the energy of its STFT magnitudes (Parseval's theorem).

    The phases of neighbouring frames do not agree completely, so overlapping frames cancel in part.
    """
    overlap = tf.constant(_window_overlap(spec)[spec.n_fft // 2 :][: spec.samples])
    wanted = 2.0 / spec.n_fft * tf.reduce_sum(tf.square(magnitude), axis=[1, 2])
    found = tf.reduce_sum(tf.square(audio)[:, : overlap.shape[0]] * overlap, axis=1)
    return tf.sqrt(tf.clip_by_value(wanted / (found + 1e-30), 0.5, 2.0))[:, tf.newaxis]


class _Filters(NamedTuple):
    """Constants of a spec, for the `k` bins from `first` on that the mel bands cover.

    Attributes:
        first: the first covered bin.
        basis: `[n_mels, k]`, the mel filters.
        interpolation: `[n_mels, k]`, interpolates linearly between the centres of the bands.
        advance: `[frames, k]`, how far the phase of a bin's own frequency advances since the frame before, radians;
            in frame 0, random phases to start from.
        centre: `[k]`, factor that moves the time of a phase from the centre of a frame to its first sample.
    """

    first: int
    basis: NDArray[np.float32]
    interpolation: NDArray[np.float32]
    advance: NDArray[np.float32]
    centre: NDArray[np.complex64]


@functools.lru_cache(maxsize=16)
def _filters(spec: FeatureSpec) -> _Filters:
    basis = mel_basis(spec).toarray()
    covered = np.flatnonzero(basis.sum(axis=0))
    first, last = int(covered[0]), int(covered[-1])
    basis = basis[:, first : last + 1]
    bins = np.arange(first, last + 1)
    centres = basis @ bins / basis.sum(axis=1)
    interpolation = np.stack([np.interp(bins, centres, row) for row in np.eye(spec.n_mels)])
    advance = np.tile(2.0 * np.pi * (bins * spec.hop % spec.n_fft) / spec.n_fft, (spec.frames, 1))
    # Equal phases would add up to a click at the start.
    advance[0] = np.random.default_rng(0).uniform(-np.pi, np.pi, len(bins))
    return _Filters(
        first,
        basis.astype(np.float32),
        interpolation.astype(np.float32),
        advance.astype(np.float32),
        ((-1.0) ** bins).astype(np.complex64),
    )


@functools.lru_cache(maxsize=16)
def _window_overlap(spec: FeatureSpec) -> NDArray[np.float32]:
    """Returns the sum of the squared windows of all frames, `[(frames - 1) * hop + n_fft]`.

    At both ends fewer frames overlap. There the smallest value of the middle is returned instead, because a division
    by almost nothing would turn small errors into clicks.
    """
    squared = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(spec.n_fft) / spec.n_fft)) ** 2
    overlap = np.zeros((spec.frames - 1) * spec.hop + spec.n_fft)
    for frame in range(spec.frames):
        overlap[frame * spec.hop : frame * spec.hop + spec.n_fft] += squared
    middle = np.pad(squared, (0, -spec.n_fft % spec.hop)).reshape(-1, spec.hop).sum(axis=0)
    return np.maximum(overlap, middle.min()).astype(np.float32)
