"""Measures reconstructions of a split, window by window, from the log-mels alone (needs TensorFlow)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.evaluation.bands import band_centres
from tfpipe.evaluation.windows import Sampler, Windows
from tfpipe.features.log_mel import dequantise
from tfpipe.model import measure
from tfpipe.process.progress import Progress
from tfpipe.spec import FeatureSpec
from tfpipe.training.trained_model import TrainedModel

# Edges of the bands that a person is told of, Hz: octaves, and all below the first and above the last.
_EDGES_HZ = (250.0, 500.0, 1000.0, 2000.0, 4000.0)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Errors of a model's reconstructions, decoded from the posterior's mean.

    Attributes:
        mse: mean squared error of each window, `[n]`.
        kl: mean KL of each dimension, `[latent]`, nats.
        band_mse: mean squared error of each mel band, `[n_mels]`.
        log_spectral_distance_db: mean over all frames, see `log_spectral_distance`.
    """

    mse: NDArray[np.float64]
    kl: NDArray[np.float64]
    band_mse: NDArray[np.float64]
    log_spectral_distance_db: float


def reconstruct(model: TrainedModel, mels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns log-mels `[n, n_mels, frames]` decoded from the means of the posterior."""
    z_mean, _ = model.encoder(mels[..., None], training=False)
    return np.asarray(model.decoder(z_mean, training=False))[..., 0]


def measure_reconstruction(
    model: TrainedModel, windows: Iterable[Windows], *, total: int, quiet: bool, sampler: Sampler | None = None
) -> Reconstruction:
    """Measures a model on windows that are streamed.

    Args:
        model: the model.
        windows: batches, such as those of `tfpipe.evaluation.windows.stream`.
        total: number of windows, for the progress.
        quiet: show no progress.
        sampler: is given every batch.
    """
    errors: list[NDArray[np.float64]] = []
    kl, bands, distance = np.zeros(model.latent), np.zeros(model.spec.n_mels), 0.0
    with Progress("evaluate", total=total, unit="window", quiet=quiet) as bar:
        for batch in windows:
            mel = dequantise(batch.codes)
            z_mean, z_log_var = model.encoder(mel[..., None], training=False)
            rebuilt = np.asarray(model.decoder(z_mean, training=False))[..., 0]
            errors.append(measure.squared_error(mel, rebuilt))
            kl += measure.kl(z_mean, z_log_var).sum(axis=0)
            bands += np.square(mel - rebuilt, dtype=np.float64).mean(axis=2).sum(axis=0)
            distance += float(log_spectral_distance(mel, rebuilt, model.spec).sum())
            if sampler is not None:
                sampler.add(batch)
            bar.update(len(mel))
    mse = np.concatenate(errors)
    count = len(mse)
    return Reconstruction(mse=mse, kl=kl / count, band_mse=bands / count, log_spectral_distance_db=distance / count)


def log_spectral_distance(
    mel: NDArray[np.float32], rebuilt: NDArray[np.float32], spec: FeatureSpec
) -> NDArray[np.float64]:
    """Returns the log-spectral distance of each window, `[n]`, in dB of the sound.

    It is the root of the mean squared difference over the bands of a frame (Gray and Markel, 1976), and then the
    mean over the frames. If the features are magnitudes (`power` 1), one of their decibels is two of the sound.

    Args:
        mel: `[n, n_mels, frames]` in [0, 1].
        rebuilt: of the same shape.
        spec: the feature spec.
    """
    frames = np.sqrt(np.square(np.subtract(mel, rebuilt), dtype=np.float64).mean(axis=1))
    return np.asarray(frames.mean(axis=1) * spec.top_db * 2.0 / spec.power)


def by_band(band_mse: NDArray[np.float64], spec: FeatureSpec) -> list[dict[str, Any]]:
    """Returns the error in a few bands of frequency: `low_hz`, `high_hz` and `mse` of each that holds mel bands."""
    centres = band_centres(spec)
    edges = [spec.fmin, *(edge for edge in _EDGES_HZ if spec.fmin < edge < spec.fmax), spec.fmax]
    found = []
    for low, high in itertools.pairwise(edges):
        inside = (centres >= low) & (centres < high)
        if inside.any():
            found.append({"low_hz": low, "high_hz": high, "mse": float(band_mse[inside].mean())})
    return found


def kbit_per_s(kl: float, spec: FeatureSpec) -> float:
    """Returns the rate of the latent in kbit/s: the KL of a window, given in nats, in bits for each second."""
    return kl / math.log(2.0) / spec.window_s / 1000.0
