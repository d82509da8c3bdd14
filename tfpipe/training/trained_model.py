"""A trained model, rebuilt from a run folder (needs TensorFlow)."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from tfpipe.errors import RunError
from tfpipe.features.inversion_tf import Correct, invert_log_mel
from tfpipe.model import networks
from tfpipe.model.noise import seeded_normal
from tfpipe.model.presets import stored_preset
from tfpipe.model.prior import Prior
from tfpipe.spec import FeatureSpec
from tfpipe.training import checkpoint
from tfpipe.training.prior_folder import autoencoder_digest, load_prior
from tfpipe.training.run_folder import CHECKPOINTS, load_run
from tfpipe.training.vocoder_folder import load_vocoder


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained VAE in float32.

    Attributes:
        spec: the feature spec it was trained on.
        labels: label names of its dataset.
        latent: dimensions of z.
        latent_shape: steps along time and channels of each, whose product is `latent`; one step is a vector.
        encoder: Keras model, mel `[n, n_mels, frames, 1]` -> z_mean, z_log_var `[n, latent]`.
        decoder: Keras model, z `[n, latent]` -> mel `[n, n_mels, frames, 1]` in [0, 1].
        prior: where draws come from; None is the standard normal distribution.
        vocoder: Keras model that corrects the magnitudes of sound, from `tfpipe.model.magnitudes.build`; or None.
        metadata: JSON values about the model: preset, dataset, step, metrics.
    """

    spec: FeatureSpec
    labels: tuple[str, ...]
    latent: int
    latent_shape: tuple[int, int]
    encoder: Any
    decoder: Any
    prior: Prior | None = None
    vocoder: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def draw(self, seeds: ArrayLike, *, label: int = -1, temperature: float = 1.0) -> NDArray[np.float32]:
        """Draws latents `[n, latent]` from the prior; row i is a function of `seeds[i]`.

        Args:
            seeds: `[n]` integers.
            label: index into `labels`; -1 is any.
            temperature: standard deviation of the noise that a draw starts from.
        """
        noise = seeded_normal(np.asarray(seeds, np.int64), self.latent) * temperature
        if self._from_prior is None:
            return np.asarray(noise)
        return np.asarray(self._from_prior(noise, tf.fill([len(noise)], label)))

    @property
    def correct(self) -> Correct | None:
        """The vocoder, as `tfpipe.features.inversion_tf.invert_log_mel` takes it; None without one."""
        return functools.partial(self.vocoder, training=False) if self.vocoder is not None else None

    def sound(self, mels: ArrayLike, ref_db: ArrayLike) -> NDArray[np.float32]:
        """Returns the audio `[n, samples]` of log-mels `[n, n_mels, frames]` with the levels `ref_db` `[n]`, dB."""
        return np.asarray(self._sound(np.asarray(mels, np.float32), np.asarray(ref_db, np.float32)))

    @functools.cached_property
    def _sound(self) -> Any:
        """The graph of `sound`, traced once."""
        correct = self.correct
        return tf.function(
            lambda mel, ref_db: invert_log_mel(mel, ref_db, self.spec, correct=correct),
            input_signature=[tf.TensorSpec([None, *self.spec.mel_shape]), tf.TensorSpec([None])],
            autograph=False,
        )

    @functools.cached_property
    def _from_prior(self) -> Any:
        """The graph of `Prior.draw`, traced once; None without a prior."""
        return self.prior and tf.function(self.prior.draw, autograph=False, reduce_retracing=True)


def load_models(run: str | os.PathLike[str], *, which: str = checkpoint.BEST) -> TrainedModel:
    """Rebuilds a run's models in float32 and loads the weights of a checkpoint.

    The models are not rebuilt under the precision policy of the training: a mixed policy
    would be exported with them, and run many times slower on a CPU server.

    Args:
        run: run folder.
        which: `best`, `latest`, or the name of a checkpoint such as `step-00000120`.

    Raises:
        RunError: there is no run or no checkpoint yet, or the weights are another model's.
        UsageError: `which` is neither.
    """
    loaded = load_run(run)
    folder, config = loaded.path, loaded.config
    saved = checkpoint.load(folder / CHECKPOINTS, which)
    if saved is None:
        raise RunError(
            f"{folder}: no {which} checkpoint yet; run `tfpipe train --data DIR --run {folder}` until an epoch is done"
        )
    steps, channels = config["latent_shape"]
    chosen = stored_preset(config["preset"], config["network"])
    models = networks.build(chosen, loaded.spec, latent=f"{steps}x{channels}")
    for part in models:
        checkpoint.assign(part.weights, saved.arrays, prefix=part.name, where=str(folder))
    return TrainedModel(
        spec=loaded.spec,
        labels=tuple(config["labels"]),
        latent=config["latent"],
        latent_shape=(steps, channels),
        encoder=models.encoder,
        decoder=models.decoder,
        prior=load_prior(folder, autoencoder=autoencoder_digest(saved)),
        vocoder=load_vocoder(folder, loaded.spec),
        metadata={
            "preset": config["preset"],
            "latent": config["latent"],
            "dataset": config["dataset"],
            **({"init": config["init"]} if config["init"] else {}),
            "checkpoint": which,
            "epoch": saved.state["epoch"],
            "step": saved.state["step"],
            "metrics": next((dict(row) for row in loaded.history if row["step"] == saved.state["step"]), {}),
        },
    )
