"""Training: one loop for every strategy and precision (needs TensorFlow).

Keras `fit` fails under MultiWorkerMirroredStrategy, so a step is
`tf.function` + `strategy.run` + all-reduced gradients + `optimizer.apply`.
Order and noise are functions of (seed, step): a killed run goes on from its
checkpoint to the same weights, bit for bit, on CPU in float32.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe import checkpoint, model, precision
from tfpipe.data_service import addresses, watched
from tfpipe.errors import RunError
from tfpipe.features import dequantise
from tfpipe.features_tf import to_mel
from tfpipe.input import Part, Position, explained, make_dataset, require_unchanged, salvage, steps_per_epoch
from tfpipe.manifest import Folder, Manifest, load_manifest
from tfpipe.progress import Progress
from tfpipe.runs import (
    CHECKPOINTS,
    DONE,
    METRICS,
    Run,
    TrainConfig,
    assign,
    claim,
    finished,
    load_run,
    named,
    read_history,
    selection_loss,
)
from tfpipe.sources import cached
from tfpipe.storage import folder_lock, write_bytes
from tfpipe.strategy import from_chief, make_strategy, require_equal, together, worker

# A dimension that carries less than this many nats on average is dead.
ACTIVE_NATS = 0.01
# Waiting for input is worth a word above this share of an epoch, if it is not over in a moment.
_MUCH_WAITING, _LONG_EPOCH_S = 0.1, 10.0
# Enough for 16 stable components; 113 MB.
_PCA_EXAMPLES = 1024


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved its state."""


def train(config: TrainConfig, *, quiet: bool = False) -> Run:
    """Trains a VAE, or goes on with the run that stands in the folder.

    Args:
        config: all settings; a run folder of other settings is refused.
        quiet: show no progress.

    Returns:
        The finished run.

    Raises:
        DatasetError: no usable dataset.
        RunError: the folder holds a run of other settings, or the loss is not finite.
        TfpipeError: another worker was lost, or was started with other settings.
        Interrupted: stopped by SIGINT or SIGTERM after saving.
    """
    folder = Path(config.run)
    manifest = load_manifest(config.data)
    strategy = make_strategy(config.strategy)
    is_chief = worker(strategy)[0] == 0
    with ExitStack() as stack:
        stack.enter_context(together(strategy))
        if is_chief:
            stack.enter_context(folder_lock(folder, what="tfpipe train"))
        if (run := finished(config)) is not None:
            return run
        # The folder is claimed once the models stand: a size or device that is refused leaves it as it was.
        trainer = _Trainer(config, manifest, strategy)
        if is_chief:
            machine = {"policy": trainer.policy, "replicas": trainer.part.total, "left_out": trainer.lost}
            shard_by = config.shard_by if trainer.part.workers > 1 else "record"
            claim(folder, config, manifest, machine={**machine, "shard_by": shard_by})
        trainer.restore()
        with _stop_signals() as stop:
            trainer.run(stop, quiet=quiet or not is_chief)
        if is_chief:
            return load_run(folder)
        # Others need no run folder, and may be here before the chief has written its last row.
        history = tuple(trainer.history)
        return Run(path=folder, config=config.to_dict(), spec=manifest.spec, history=history, done=True)


def active_units(kl: np.ndarray) -> int:
    """Counts the dimensions of mean KL `[latent]` that carry information."""
    return int((kl > ACTIVE_NATS).sum())


class _Trainer:
    """Models, optimizer and the position in the run."""

    def __init__(self, config: TrainConfig, manifest: Manifest, strategy: tf.distribute.Strategy) -> None:
        self.config, self.manifest, self.strategy = config, manifest, strategy
        self.folder, self.fingerprint = Path(config.run), manifest.fingerprint
        self.service = addresses(config.data_service)
        self.data: Folder = config.data
        if config.cache:
            self.data = cached(config.data, Path(config.cache), splits=("train", "validation"))
        self.lost: list[str] = []
        if config.on_corrupt == "skip":
            for split in ("train", "validation"):
                self.manifest, lost = salvage(self.data, self.manifest, split=split)
                self.lost += lost
        manifest = self.manifest
        self.batch_size, self.epochs = int(config.batch_size or 0), int(config.epochs or 0)
        index, workers = worker(strategy)
        self.is_chief = index == 0
        self.part = Part(worker=index, workers=workers, replicas=strategy.num_replicas_in_sync // workers)
        self.steps = steps_per_epoch(manifest, split="train", batch_size=self.batch_size, replicas=self.part.total)
        config.augment.check(manifest.spec)
        self.objective = model.preset(config.preset).objective
        self.pixels = math.prod(manifest.spec.mel_shape)
        self.epoch = self.step = 0
        # Sums over the epoch so far: examples, mse, KL per dimension.
        self.sums = np.zeros(2 + config.latent)
        self.best_loss = math.inf
        self.history: list[dict[str, Any]] = []
        self._stopping = False
        self._writer: Any = None
        self.policy = precision.resolve(config.precision)
        here = {"policy": self.policy, "shard_by": config.shard_by, "dataset": self.fingerprint, "left_out": self.lost}
        require_equal(strategy, {**config.settings(), **here})
        keras.utils.set_random_seed(config.seed)
        with strategy.scope():
            self.models = model.build(config.preset, manifest.spec, latent=config.latent, policy=self.policy)
            self.variables = [*self.models.encoder.trainable_variables, *self.models.decoder.trainable_variables]
            self.optimizer = self._make_optimizer()
            self.optimizer.build(self.variables)
        self._train_step = tf.function(self._distributed_step, reduce_retracing=True)
        self._eval_step = tf.function(self._distributed_evaluation, reduce_retracing=True)

    # The run -----------------------------------------------------------------

    def run(self, stop: threading.Event, *, quiet: bool) -> None:
        """Trains from the current position to the end."""
        if self.steps == 0:
            raise RunError(f"{self.config.data}: no training examples; preprocess more audio")
        with Progress("train", total=self.epochs * self.steps, unit="step", done=self._global_step, quiet=quiet) as bar:
            if not quiet:
                bar.message(
                    f"train: {self.manifest.examples('train')} examples, {self.steps} steps an epoch, "
                    f"{self.epochs} epochs, {sum(math.prod(v.shape) for v in self.variables):,} parameters, "
                    f"{self.policy}, {self.strategy.num_replicas_in_sync} replica(s)"
                )
            for sentence in self.lost:
                bar.message(f"train: {sentence}")
            # Asked before each epoch: a run killed right after its last one must not train another.
            while self.epoch < self.epochs and not self._without_progress():
                self._epoch(stop, bar)
                if self._stopping and self.epoch < self.epochs:
                    raise Interrupted(f"stopped after epoch {self.epoch}; run the same command to go on")
            if self.epoch < self.epochs:
                bar.message(
                    f"train: no better validation loss for {self.config.patience} epochs, stopped after {self.epoch}"
                )
        if self.is_chief:
            write_bytes(self.folder / DONE, b"")

    def _epoch(self, stop: threading.Event, bar: Progress) -> None:
        """Finishes the current epoch and saves."""
        started = last_saved = time.monotonic()
        first_step = self.step
        waited = 0.0
        require_unchanged(self.data, self.fingerprint)
        batches = iter(self._batches("train", Position(epoch=self.epoch, step=self.step), seed=self.config.seed))
        while self.step < self.steps:
            asked = time.monotonic()
            with self._explained("train"):
                batch = next(batches)
            waited += time.monotonic() - asked
            self._advance(batch, stop)
            means = self.sums[1:] / self.sums[0]
            bar.update(
                1,
                epoch=f"{self.epoch + 1}/{self.epochs}",
                loss=f"{self._loss(means):.4f}",
                mse=f"{means[0]:.5f}",
                kl=f"{means[1:].sum():.2f}",
                active=f"{active_units(means[1:])}/{self.config.latent}",
                wait=f"{waited / max(1e-9, time.monotonic() - started):.0%}",
            )
            if self.step == self.steps:
                break  # the epoch's end saves
            if self._stopping or time.monotonic() - last_saved > self.config.checkpoint_every_s:
                self._save()
                last_saved = time.monotonic()
            if self._stopping:
                raise Interrupted(f"stopped at epoch {self.epoch + 1}, step {self.step}; run the same command to go on")
        seconds = time.monotonic() - started
        if waited > _MUCH_WAITING * seconds > _MUCH_WAITING * _LONG_EPOCH_S:
            bar.message(
                f"train: {waited / seconds:.0%} of epoch {self.epoch + 1} went into waiting for input; "
                "a local --cache, less augmentation, more cores or --data-service would help"
            )
        self._end_epoch(seconds=seconds, waited=waited, steps=self.step - first_step)

    def _advance(self, batch: Any, stop: threading.Event) -> None:
        """Takes one step; all workers learn in it whether one of them was asked to stop."""
        count = min(self.batch_size, self.manifest.examples("train") - self.step * self.batch_size)
        count -= count % self.part.total
        scalars = [tf.constant(value, tf.float32) for value in (count, float(stop.is_set()))]
        reduced = np.asarray(self._train_step(batch, *scalars, tf.constant(self._global_step, tf.int32)), np.float64)
        means, self._stopping = reduced[:-1], bool(reduced[-1] > 0.0)
        if not np.isfinite(means).all():
            raise RunError(
                f"{self.folder}: the loss is not finite at epoch {self.epoch + 1}, step {self.step + 1} "
                f"(mse {means[0]:g}, KL {means[1:].sum():g}); the last checkpoint is good: "
                "train into another run folder with a smaller --learning-rate or --precision float32"
            )
        self.sums += np.concatenate([[count], means * count])
        self.step += 1

    def _end_epoch(self, *, seconds: float, waited: float, steps: int) -> None:
        means = self.sums[1:] / self.sums[0]
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self._global_step,
            "loss": self._loss(means),
            "mse": float(means[0]),
            "kl": float(means[1:].sum()),
            "active_units": active_units(means[1:]),
            **self._validate(),
            "learning_rate": float(np.asarray(self.optimizer.learning_rate)),
            "examples_per_s": round(steps * self.batch_size / max(seconds, 1e-9), 2),
            "input_wait": round(waited / max(seconds, 1e-9), 4),
            "input_mb_per_s": round(steps * self.batch_size * self.pixels / 1e6 / max(seconds, 1e-9), 2),
            "seconds": round(seconds, 3),
        }
        is_best = not self.history or selection_loss(row) < self.best_loss
        self.best_loss = min(self.best_loss, selection_loss(row))
        self.history.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums[:] = 0.0
        if self.is_chief:
            # First the metrics, then the checkpoint: resuming drops rows that no checkpoint vouches for.
            _write_history(self.folder, self.history)
            self._write_summaries(row)
        self._save(best=is_best)

    def _validate(self) -> dict[str, Any]:
        """Returns the validation split's metrics, with z at the posterior mean; empty without such a split."""
        if not steps_per_epoch(self.manifest, split="validation", batch_size=self.batch_size, replicas=self.part.total):
            return {}
        sums = np.zeros(2 + self.config.latent)
        with self._explained("validation"):
            for batch in self._batches("validation", Position(), seed=None):
                with together(self.strategy):  # a lost worker is no fault of the data
                    sums += np.asarray(self._eval_step(batch), np.float64)
        means = sums[1:] / sums[0]
        return {
            "val_loss": self._loss(means),
            "val_mse": float(means[0]),
            "val_kl": float(means[1:].sum()),
            "val_active_units": active_units(means[1:]),
        }

    def _without_progress(self) -> bool:
        """Tells whether the validation loss has not improved for `patience` epochs."""
        patience = self.config.patience or 0
        if not patience or not self.history or self.history[-1].get("val_loss") is None:
            return False
        # From memory, not from the file: every worker must decide alike.
        best = min(range(len(self.history)), key=lambda index: selection_loss(self.history[index]))
        return len(self.history) - 1 - best >= patience

    @property
    def _global_step(self) -> int:
        return self.epoch * self.steps + self.step

    def _loss(self, means: np.ndarray) -> float:
        mse, kl = float(means[0]), float(means[1:].sum())
        return float(model.objective(self.objective, mse, kl, pixels=self.pixels, latent=self.config.latent))

    def _explained(self, split: str) -> AbstractContextManager[None]:
        return explained(self.data, self.manifest, split=split, fingerprint=self.fingerprint)

    def _batches(self, split: str, position: Position, *, seed: int | None) -> Any:
        batches = self.strategy.distribute_datasets_from_function(
            lambda _: make_dataset(
                self.data,
                split=split,
                batch_size=self.batch_size,
                seed=seed,
                position=position,
                part=self.part,
                manifest=self.manifest,
                augment=self.config.augment if split == "train" else None,
                service=self.service,
                shard_by=self.config.shard_by,
            ),
            # Nothing to fetch to on CPUs, where the iterator that would do it may take minutes to be dropped.
            tf.distribute.InputOptions(experimental_fetch_to_device=bool(tf.config.list_physical_devices("GPU"))),
        )
        return watched(batches, self.service)

    # One step ----------------------------------------------------------------

    def _distributed_step(self, batch: Any, count: tf.Tensor, stop: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns mse and KL per dimension, means over the global batch, and the stop requests: `[2 + latent]`."""
        means = self.strategy.run(self._replica_step, args=(batch, count, stop, step))
        return self.strategy.experimental_local_results(means)[0]

    def _replica_step(
        self, batch: dict[str, tf.Tensor], count: tf.Tensor, stop: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        mel = to_mel(batch["mel"])
        with tf.GradientTape() as tape:
            z_mean, z_log_var = self.models.encoder(mel, training=True)
            reconstruction = self.models.decoder(
                model.sample(z_mean, z_log_var, self._noise(z_mean, step)), training=True
            )
            terms = model.losses(mel, reconstruction, z_mean, z_log_var)
            mse, kl = tf.reduce_sum(terms.mse) / count, tf.reduce_sum(terms.kl, axis=0) / count
            means = context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.stop_gradient(tf.concat([mse[None], kl, stop[None]], 0))
            )
            kl_weight = 1.0 / (self.config.latent if self.objective == "notebook" else self.pixels)
            loss = mse * model.gradient_weight(self.objective, means[0]) + tf.reduce_sum(kl) * kl_weight
            loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.variables)
        # Keras' optimizer sums over the replicas too, after clipping: reducing first lets it clip the whole
        # gradient as a single worker would, the mean keeps its sum right.
        self.optimizer.apply(context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients), self.variables)
        return means

    def _noise(self, like: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """This replica's rows of the global batch's noise: the same for one worker or many."""
        rows = tf.shape(like)[0]
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        shape = [rows * self.part.total, self.config.latent]
        noise = tf.random.stateless_normal(shape, seed=tf.stack([self.config.seed, step]))
        return noise[replica * rows : (replica + 1) * rows]

    def _distributed_evaluation(self, batch: Any) -> tf.Tensor:
        sums = self.strategy.run(self._replica_evaluation, args=(batch,))
        return self.strategy.experimental_local_results(sums)[0]

    def _replica_evaluation(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        mel = to_mel(batch["mel"])
        z_mean, z_log_var = self.models.encoder(mel, training=False)
        terms = model.losses(mel, self.models.decoder(z_mean, training=False), z_mean, z_log_var)
        count = tf.cast(tf.shape(mel)[0], tf.float32)
        sums = tf.concat([[count, tf.reduce_sum(terms.mse)], tf.reduce_sum(terms.kl, axis=0)], 0)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)

    def _make_optimizer(self) -> Any:
        rate: Any = float(self.config.learning_rate or 0.0)
        clip = None
        if self.config.schedule == "cosine":
            total = max(2, self.epochs * self.steps)
            warm_up = max(1, min(100, total // 20))
            rate = keras.optimizers.schedules.CosineDecay(
                rate * 0.05, total - warm_up, alpha=0.02, warmup_target=rate, warmup_steps=warm_up
            )
            clip = 1.0 / self.part.total  # of the mean over replicas, see _replica_step
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=clip)
        return keras.optimizers.LossScaleOptimizer(optimizer) if self.policy == "mixed_float16" else optimizer

    # State -------------------------------------------------------------------

    def restore(self) -> None:
        """Loads the latest checkpoint, or starts the linear path from PCA of the training split."""
        # The chief alone reads: the others need no run folder, nor one that is up to date.
        saved = checkpoint.load(self.folder / CHECKPOINTS) if self.is_chief else None
        position: dict[str, Any] = {"epoch": 0, "step": 0, "best_loss": None, "sums": self.sums.tolist(), "history": []}
        if saved is not None:
            for name, variables in self._parts().items():
                assign(variables, saved.arrays, prefix=name, where=str(self.folder))
            state = saved.state
            # An epoch counts once its checkpoint stands.
            history = [row for row in read_history(self.folder) if row["epoch"] <= state["next_epoch"]]
            position = {name: state[name] for name in ("best_loss", "sums")}
            position |= {"epoch": state["next_epoch"], "step": state["next_step"], "history": history}
        elif self.is_chief:
            model.start_from_pca(self.models, self._sample())
        variables = [variable for part in self._parts().values() for variable in part]
        position, values = from_chief(self.strategy, position, [np.asarray(variable) for variable in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.epoch, self.step, self.history = position["epoch"], position["step"], position["history"]
        self.best_loss = math.inf if position["best_loss"] is None else position["best_loss"]
        self.sums = np.asarray(position["sums"])
        if self.is_chief:
            _write_history(self.folder, self.history)

    def _save(self, *, best: bool = False) -> None:
        if not self.is_chief:
            return
        arrays = {
            name: np.asarray(variable)
            for prefix, variables in self._parts().items()
            for name, variable in named(variables, prefix).items()
        }
        state = {
            "epoch": self.epoch,
            "step": self._global_step,
            "next_epoch": self.epoch,
            "next_step": self.step,
            "seed": self.config.seed,
            "sums": self.sums.tolist(),
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
        }
        checkpoint.save(self.folder / CHECKPOINTS, arrays, state, step=self._global_step, best=best)

    def _parts(self) -> dict[str, list[Any]]:
        return {
            "encoder": self.models.encoder.weights,
            "decoder": self.models.decoder.weights,
            "optimizer": self.optimizer.variables,
        }

    def _sample(self) -> np.ndarray:
        """Log-mels `[n, n_mels, frames]` of a sample of the training examples."""
        dataset = make_dataset(self.data, split="train", batch_size=16, seed=self.config.seed, manifest=self.manifest)
        with self._explained("train"):
            sample = [batch["mel"][..., 0] for batch in dataset.take(_PCA_EXAMPLES // 16).as_numpy_iterator()]
        return dequantise(np.concatenate(sample))

    def _write_summaries(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.folder / "tensorboard"))
        with self._writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None:
                    tf.summary.scalar(name, value)
        self._writer.flush()


def _write_history(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_bytes(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns SIGINT and SIGTERM into an event; a second SIGINT stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        print("train: stopping after this step, saving", file=sys.stderr, flush=True)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
