"""Training the learned prior, the second stage of a run (needs TensorFlow).

The examples of a step, their times and noise are functions of (seed, step). A run that was killed therefore continues
from its checkpoint to the same weights, bit for bit, on a CPU in float32.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.manifest import Manifest
from tfpipe.errors import RunError
from tfpipe.files.storage import write_json
from tfpipe.model import networks, precision
from tfpipe.process.progress import Progress
from tfpipe.training import checkpoint
from tfpipe.training.batches import Batches
from tfpipe.training.config import FLOW, TrainConfig
from tfpipe.training.latent_store import Latents, stored_latents
from tfpipe.training.prior_folder import (
    LATENTS,
    PRIOR,
    autoencoder_digest,
    prior_config,
    prior_settings,
    require_same_settings,
)
from tfpipe.training.prior_step import PriorStepper
from tfpipe.training.run_folder import CHECKPOINTS, CONFIG, mark_done, read_history, write_history
from tfpipe.training.state import arrays_of, share, take_over
from tfpipe.training.stopping import Interrupted
from tfpipe.training.strategy import worker

# Reports over the whole training; each measures held-out windows and saves a checkpoint.
_REPORTS = 20
# Held-out windows that are measured.
_MEASURED = 512


def train_prior(
    config: TrainConfig,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    *,
    stop: threading.Event,
    quiet: bool = False,
) -> None:
    """Trains the prior of a run whose autoencoder is trained, or continues it.

    Args:
        config: settings of the run.
        manifest: the dataset.
        strategy: the devices, and the other workers.
        stop: set when the process is asked to stop.
        quiet: show no progress.

    Raises:
        DatasetError: the dataset cannot be read.
        RunError: the run has a prior with other settings, or the loss is not finite.
        Interrupted: `stop` was set, here or in another worker, and the state is saved.
    """
    with tempfile.TemporaryDirectory(prefix="tfpipe-prior-") as scratch:
        is_chief = worker(strategy)[0] == 0
        folder = Path(config.run) / PRIOR
        trainer = PriorTrainer(config, manifest, strategy, store=folder if is_chief else Path(scratch), quiet=quiet)
        trainer.restore()
        trainer.run(stop)


class PriorTrainer:
    """The training of a prior in memory.

    Args:
        config: settings of the run.
        manifest: the dataset.
        strategy: the devices, and the other workers.
        store: folder for the encoded examples.
        quiet: show no progress.

    Attributes:
        steps: of the whole training.
        step: finished steps.
        history: one row of figures for each report.
    """

    def __init__(
        self, config: TrainConfig, manifest: Manifest, strategy: tf.distribute.Strategy, *, store: Path, quiet: bool
    ) -> None:
        self.strategy, self.seed, self._quiet = strategy, config.seed, quiet
        self.folder = Path(config.run) / PRIOR
        self.batches = Batches(config, manifest, strategy)
        self.is_chief = self.batches.part.worker == 0
        self.shape = config.latent_shape(manifest.spec)
        self.step, self.history = 0, list[dict[str, Any]]()
        self._losses: list[float] = []
        self._ahead: tuple[int, tuple[NDArray[np.float32], NDArray[np.int32]]] | None = None
        self._save_every_s = config.checkpoint_every_s
        policy = precision.resolve(config.precision)
        jit = precision.compiled(config.jit_compile, replicas=self.batches.part.total)
        autoencoder, digest = self._autoencoder(config, policy)
        self._settings = {
            "kind": FLOW,
            **prior_settings(config, manifest),
            "latent_shape": [self.shape.steps, self.shape.channels],
            "labels": list(manifest.labels),
            "dataset": manifest.fingerprint,
            "left_out": self.batches.lost,
            "policy": policy,
            "xla": jit,
            "replicas": self.batches.part.total,
            "autoencoder": digest,
        }
        self.steps = int(self._settings["steps"])
        if self.is_chief:
            self._claim()
        self.latents, self.held_out = (
            self._latents(split, autoencoder.encoder, store=store) for split in ("train", "validation")
        )
        self.stepper = PriorStepper(
            config.prior_size(),
            self.shape,
            steps=self.steps,
            labels=len(manifest.labels),
            weights=_channel_weights(autoencoder.decoder, self.shape.channels),
            seed=config.seed,
            policy=policy,
            jit=jit,
            strategy=strategy,
            part=self.batches.part,
        )

    def restore(self) -> None:
        """Continues from the latest checkpoint, or starts anew. Only the chief reads the folder."""
        saved = checkpoint.load(self.folder / CHECKPOINTS) if self.is_chief else None
        found: dict[str, Any] = {"step": 0, "losses": [], "history": []}
        if saved is not None:
            take_over(saved, self.stepper.parts(), where=str(self.folder))
            found = {name: saved.state[name] for name in ("step", "losses")}
            found["history"] = [row for row in read_history(self.folder) if row["step"] <= found["step"]]
        found = share(self.strategy, found, [variable for part in self.stepper.parts().values() for variable in part])
        self.step, self._losses, self.history = found["step"], found["losses"], found["history"]

    def run(self, stop: threading.Event) -> None:
        """Trains from the current step to the end.

        Raises:
            Interrupted: a worker was asked to stop, and the state is saved.
            RunError: the loss is not finite.
        """
        total, every = self.steps, max(1, math.ceil(self.steps / _REPORTS))
        with Progress("prior", total=total, unit="step", done=self.step, quiet=self._quiet) as bar:
            self._introduce(bar)
            started = time.monotonic()
            first, saved_at = self.step, started
            while self.step < total:
                stopping = self._advance(stop)
                bar.update(1, loss=f"{np.mean(self._losses[-100:]):.4f}", **self._last_measured())
                if self.step % every == 0 or self.step == total:
                    self._report(seconds=time.monotonic() - started, steps=self.step - first)
                    started = saved_at = time.monotonic()
                    first = self.step
                elif stopping or time.monotonic() - saved_at > self._save_every_s:
                    self._save()
                    saved_at = time.monotonic()
                if stopping and self.step < total:
                    raise Interrupted(f"stopped at step {self.step} of the prior; run the same command to continue")
        if self.is_chief:
            mark_done(self.folder)
            shutil.rmtree(self.folder / LATENTS, ignore_errors=True)

    def _advance(self, stop: threading.Event) -> bool:
        """Takes one step; returns whether a worker was asked to stop."""
        means = self.stepper.train(*self._batch(self.step), stop=stop.is_set(), step=self.step)
        # The rows of the next step are read while the device computes this one.
        self._batch(self.step + 1)
        loss, asked = np.asarray(means, np.float64)
        if not np.isfinite(loss):
            raise RunError(
                f"{self.folder}: the loss of the prior is not finite at step {self.step + 1}; delete the folder and "
                "train it anew with --precision float32"
            )
        self._losses.append(float(loss))
        self.step += 1
        return bool(asked > 0)

    def _batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Returns the examples of a step, of the global batch."""
        if self._ahead is None or self._ahead[0] != step:
            drawn = np.random.default_rng([self.seed, step]).integers(len(self.latents), size=self.stepper.batch_size)
            self._ahead = (step, self.latents.rows(np.sort(drawn)))
        return self._ahead[1]

    def _report(self, *, seconds: float, steps: int) -> None:
        """Measures held-out windows, and saves figures and a checkpoint. Only the chief does so."""
        losses, self._losses = self._losses, []
        if not self.is_chief:
            return
        row: dict[str, Any] = {"step": self.step, "loss": float(np.mean(losses))}
        if len(self.held_out):
            count = min(len(self.held_out), _MEASURED)
            rows = np.linspace(0, len(self.held_out) - 1, count).astype(int)
            row["val_loss"] = self.stepper.evaluate(*self.held_out.rows(rows))
        row["learning_rate"] = float(np.asarray(self.stepper.optimizer.learning_rate))
        row["examples_per_s"] = round(steps * self.stepper.batch_size / max(1e-9, seconds), 2)
        row["seconds"] = round(seconds, 3)
        # Without held-out windows the last state is the best.
        best = min((earlier.get("val_loss", math.inf) for earlier in self.history), default=math.inf)
        self.history.append(row)
        write_history(self.folder, self.history)
        self._save(best=row.get("val_loss", -math.inf) < best)

    def _save(self, *, best: bool = False) -> None:
        if not self.is_chief:
            return
        arrays = arrays_of(self.stepper.parts())
        original = bool(self.latents.about[:, 1].any())
        state = {"step": self.step, "losses": self._losses, "original": original, "seed": self.seed}
        checkpoint.save(self.folder / CHECKPOINTS, arrays, state, step=self.step, best=best)

    def _introduce(self, bar: Progress) -> None:
        parameters = sum(math.prod(variable.shape) for variable in self.stepper.network.trainable_variables)
        bar.message(
            f"prior: {len(self.latents)} examples, {self.steps} steps of {self.stepper.batch_size}, "
            f"{parameters:,} parameters"
        )

    def _last_measured(self) -> dict[str, str]:
        return {"held_out": f"{self.history[-1]['val_loss']:.4f}"} if self.history and len(self.held_out) else {}

    def _claim(self) -> None:
        """Writes the settings, or checks that they are those of the prior in the folder.

        A prior of an autoencoder that was trained further is deleted, because the meaning of its latents has changed.
        """
        stored = prior_config(self.folder.parent)
        if stored is not None and stored["autoencoder"] != self._settings["autoencoder"]:
            shutil.rmtree(self.folder)
            stored = None
        if stored is None:
            write_json(self.folder / CONFIG, self._settings)
        else:
            require_same_settings(self.folder, self._settings)

    def _autoencoder(self, config: TrainConfig, policy: str) -> tuple[networks.Models, str]:
        """Returns the best encoder and decoder of the run and the digest of their weights, on every worker."""
        spec = self.batches.manifest.spec
        models = networks.build(config.chosen, spec, latent=config.latent, policy=policy)
        digest = ""
        if self.is_chief:
            best = checkpoint.load(self.folder.parent / CHECKPOINTS, checkpoint.BEST)
            if best is None:
                raise RunError(f"{config.run}: no checkpoint of the autoencoder; train it first")
            digest = autoencoder_digest(best)
            take_over(best, {part.name: part.weights for part in models}, where=config.run)
        return models, share(self.strategy, digest, [weight for part in models for weight in part.weights])

    def _latents(self, split: str, encoder: Any, *, store: Path) -> Latents:
        return stored_latents(
            store / LATENTS / split,
            encode=lambda mel: encoder(mel, training=False),
            batches=self.batches,
            split=split,
            autoencoder=self._settings["autoencoder"],
            quiet=self._quiet,
        )


def _channel_weights(decoder: Any, channels: int) -> NDArray[np.float32]:
    """Returns the weight of each channel in the loss: the root of how far it moves the log-mel.

    All channels have variance 1, but one of the first principal components is heard and one of the last is not.
    """
    rows = np.asarray(decoder.get_layer("linear").kernel).reshape(channels, -1)
    return np.asarray(np.sqrt(np.linalg.norm(rows, axis=1)), np.float32)
