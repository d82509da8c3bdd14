"""TensorBoard: scalars every epoch; pictures, sounds and latents less often (needs TensorFlow).

This does not change the training: it writes no variable and draws no global random number.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.audio.level import limit_peaks
from tfpipe.features.inversion_tf import invert_log_mel
from tfpipe.model.networks import Models
from tfpipe.spec import FeatureSpec

TENSORBOARD = "tensorboard"
# Number of windows, and of samples, that are shown as picture and sound each time.
SHOWN = 4
# Drawing may take this share of the time of the run; the first drawing is assumed to take this many seconds.
_SHARE, _FIRST_S = 0.01, 2.0
# White space between original and reconstruction, in pixels.
_GAP = 4


class Summaries:
    """Writes one run's TensorBoard files.

    Args:
        folder: the run folder.
        spec: the feature spec.
        latent: dimensions of z.
        mels: held-out windows `[k, n_mels, frames]` in [0, 1], which are shown each time.
        ref_db: their levels `[k]`, dB.
    """

    def __init__(
        self,
        folder: Path,
        spec: FeatureSpec,
        *,
        latent: int,
        mels: NDArray[np.float32],
        ref_db: NDArray[np.float32],
    ) -> None:
        self._writer = tf.summary.create_file_writer(str(folder / TENSORBOARD))
        self._spec, self._mels, self._ref_db = spec, mels, ref_db
        # The seed is fixed, so that the samples of different epochs and runs can be compared.
        self._z = np.random.default_rng(0).standard_normal((SHOWN, latent), dtype=np.float32)
        self._started, self._spent = time.monotonic(), 0.0
        self._next_cost, self._heard_originals = _FIRST_S, False

    @property
    def due(self) -> bool:
        """Whether drawing takes at most 1 % of the time of the run so far, the next `draw` included."""
        return self._spent + self._next_cost <= _SHARE * (time.monotonic() - self._started)

    def scalars(self, row: Mapping[str, Any]) -> None:
        """Writes an epoch's figures."""
        with self._writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None:
                    tf.summary.scalar(name, value)
        self._writer.flush()

    def draw(self, models: Models, *, epoch: int, z_mean: NDArray[np.float32], kl: NDArray[np.float64]) -> None:
        """Writes reconstructions and samples as pictures and sounds, and histograms of the latent.

        Args:
            models: encoder and decoder.
            epoch: the step of the event.
            z_mean: posterior means of the validation split, `[n, latent]`.
            kl: mean KL per dimension of the validation split, `[latent]`, nats.
        """
        started = time.monotonic()
        samples = _decoded(models, self._z)
        with self._writer.as_default(step=epoch):
            level = np.full(len(samples), np.median(self._ref_db) if len(self._ref_db) else 0.0, np.float32)
            sounds = {"samples from the prior": (samples, level)}
            if len(self._mels):
                z, _ = models.encoder(self._mels[..., None], training=False)
                rebuilt = _decoded(models, z)
                gap = np.ones((len(rebuilt), self._spec.n_mels, _GAP), np.float32)
                _pictures("original | reconstruction", np.concatenate([self._mels, gap, rebuilt], axis=2))
                sounds["reconstruction"] = (rebuilt, self._ref_db)
                if not self._heard_originals:
                    sounds["original"] = (self._mels, self._ref_db)
                    self._heard_originals = True
            _pictures("samples from the prior", samples)
            self._sounds(sounds)
            if len(z_mean):
                tf.summary.histogram("latent/z_mean", z_mean)
            if kl.any():
                tf.summary.histogram("latent/KL per dimension", kl)
        self._writer.flush()
        self._next_cost = time.monotonic() - started
        self._spent += self._next_cost

    def _sounds(self, windows: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
        """Writes log-mels and their levels, by name, as audio. One call inverts all of them, which is faster."""
        mels, ref_db = (np.concatenate(parts) for parts in zip(*windows.values(), strict=True))
        audio = np.asarray(_inversion(self._spec)(mels, ref_db))
        audio = np.stack([limit_peaks(row, self._spec.sample_rate) for row in audio])
        start = 0
        for name, (part, _) in windows.items():
            rows, start = audio[start : start + len(part)], start + len(part)
            tf.summary.audio(f"sounds/{name}", rows[..., None], self._spec.sample_rate, max_outputs=SHOWN)


@functools.lru_cache(maxsize=4)
def _inversion(spec: FeatureSpec) -> Any:
    """Returns `invert_log_mel` for a spec as a graph, which needs a fraction of the time that its single ops take."""
    signature = [tf.TensorSpec([None, *spec.mel_shape], tf.float32), tf.TensorSpec([None], tf.float32)]
    return tf.function(
        lambda mel, ref_db: invert_log_mel(mel, ref_db, spec), input_signature=signature, autograph=False
    )


def _decoded(models: Models, z: Any) -> NDArray[np.float32]:
    return np.asarray(models.decoder(z, training=False))[..., 0]


def _pictures(name: str, mels: NDArray[np.float32]) -> None:
    """Writes log-mels as images, with low frequencies at the bottom."""
    tf.summary.image(f"pictures/{name}", mels[:, ::-1, :, None], max_outputs=SHOWN)
