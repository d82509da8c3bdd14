"""Training: one loop for every strategy and precision (needs TensorFlow).

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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpipe.data.manifest import Manifest, load_manifest
from tfpipe.data.position import Position
from tfpipe.errors import RunError
from tfpipe.files.storage import folder_lock, write_bytes, write_json
from tfpipe.model import measure, precision
from tfpipe.process.progress import Progress
from tfpipe.training import checkpoint, latent_health
from tfpipe.training.batches import Feed
from tfpipe.training.checkpoint import assign, named
from tfpipe.training.config import TrainConfig
from tfpipe.training.latent_health import active_units
from tfpipe.training.run_folder import (
    CHECKPOINTS,
    DONE,
    METRICS,
    Run,
    claim,
    finished,
    load_run,
    read_history,
    selection_loss,
)
from tfpipe.training.step import Stepper
from tfpipe.training.strategy import from_chief, make_strategy, require_equal, together, worker
from tfpipe.training.tensorboard import SHOWN, Summaries

NONFINITE = "nonfinite.json"
# Waiting for input is worth a word above this share of an epoch, if it is not over in a moment.
_MUCH_WAITING, _LONG_EPOCH_S = 0.1, 10.0
# Posterior means that TensorBoard's histograms are made of.
_LATENTS_SHOWN = 4096
# Keys that a message names; the file has all.
_KEYS_NAMED = 3


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
        trainer = Trainer(config, manifest, strategy)
        if is_chief:
            part = trainer.feed.part
            machine = {
                "policy": trainer.stepper.policy,
                "xla": trainer.stepper.jit,
                "replicas": part.total,
                "left_out": trainer.feed.lost,
                "shard_by": config.shard_by if part.workers > 1 else "record",
            }
            claim(folder, config, manifest, machine=machine)
        trainer.restore()
        with _stop_signals() as stop:
            trainer.run(stop, quiet=quiet or not is_chief)
        if is_chief:
            return load_run(folder)
        # Others need no run folder, and may be here before the chief has written its last row.
        history = tuple(trainer.history)
        return Run(path=folder, config=config.to_dict(), spec=manifest.spec, history=history, done=True)


class _Launched(NamedTuple):
    """A step that the device may still be at: its place, its batch, and what will come of it."""

    epoch: int
    step: int
    examples: int
    keys: Any
    means: tf.Tensor


class Trainer:
    """A run in memory: what it reads, what it steps, and where it is.

    Attributes:
        feed: the examples.
        stepper: models, optimizer and the compiled steps.
        epoch: finished epochs.
        step: finished steps of the epoch that is under way.
        history: a row of figures per finished epoch.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest, strategy: tf.distribute.Strategy) -> None:
        self.config, self.strategy, self.folder = config, strategy, Path(config.run)
        self.epochs, self.spec = int(config.epochs or 0), manifest.spec
        self.feed = Feed(config, manifest, strategy)
        here: dict[str, Any] = {"policy": precision.resolve(config.precision), "shard_by": config.shard_by}
        here |= {"dataset": manifest.fingerprint, "left_out": self.feed.lost}
        require_equal(strategy, {**config.settings(), **here})
        self.is_chief = self.feed.part.worker == 0
        self.stepper = Stepper(
            config, self.spec, strategy=strategy, part=self.feed.part, total_steps=self.epochs * self.feed.steps
        )
        self.epoch = self.step = 0
        # Sums over the epoch so far: examples, mse, KL per dimension.
        self.sums = np.zeros(2 + config.latent)
        self.best_loss = math.inf
        self.history: list[dict[str, Any]] = []
        self._launched: _Launched | None = None
        self._settled: _Launched | None = None
        self._asked_to_stop = self._stopping = False
        self._said: set[str] = set()
        self._summaries: Summaries | None = None
        # Of the last validation: posterior means [n, latent], mean KL per dimension [latent].
        self._latents = np.zeros((0, config.latent), np.float32), np.zeros(config.latent)

    # The run -----------------------------------------------------------------

    def run(self, stop: threading.Event, *, quiet: bool) -> None:
        """Trains from the current position to the end."""
        if self.feed.steps == 0:
            raise RunError(f"{self.config.data}: no training examples; preprocess more audio")
        with Progress(
            "train", total=self.epochs * self.feed.steps, unit="step", done=self._global_step, quiet=quiet
        ) as bar:
            if not quiet:
                parameters = sum(math.prod(variable.shape) for variable in self.stepper.variables)
                bar.message(
                    f"train: {self.feed.manifest.examples('train')} examples, {self.feed.steps} steps an epoch, "
                    f"{self.epochs} epochs, {parameters:,} parameters, "
                    f"{self.stepper.policy}, {self.strategy.num_replicas_in_sync} replica(s)"
                )
            for sentence in filter(None, [*self.feed.lost, self.feed.uneven]):
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
            self._summarise(last=True)
            self._said.clear()  # what still holds is said once more
            self._warn(bar)
        if self.is_chief:
            write_bytes(self.folder / DONE, b"")

    def _epoch(self, stop: threading.Event, bar: Progress) -> None:
        """Finishes the current epoch and saves."""
        started, first_step = time.monotonic(), self.step
        self.feed.require_unchanged()
        batches = self.feed.training(Position(epoch=self.epoch, step=self.step))
        waited = self.advance(batches, stop=stop, bar=bar)
        seconds = time.monotonic() - started
        if waited > _MUCH_WAITING * seconds > _MUCH_WAITING * _LONG_EPOCH_S:
            bar.message(
                f"train: {waited / seconds:.0%} of epoch {self.epoch + 1} went into waiting for input; "
                "a local --cache, less augmentation, more cores or --data-service would help"
            )
        self._end_epoch(seconds=seconds, waited=waited, steps=self.step - first_step)
        self._warn(bar)

    def advance(self, batches: Iterator[Any], *, stop: threading.Event, bar: Progress) -> float:
        """Takes the steps that are left of the epoch, saving now and then.

        Returns:
            s spent waiting for `batches`.

        Raises:
            Interrupted: asked to stop, and saved.
            RunError: the loss is not finite.
            DatasetError: the batches cannot be read.
        """
        started = last_saved = time.monotonic()
        waited = 0.0
        while self.step < self.feed.steps:
            asked = time.monotonic()
            with self.feed.translate_input_errors("train"):
                batch = next(batches)
            waited += time.monotonic() - asked
            self._launch(batch, stop)
            wait = f"{waited / max(1e-9, time.monotonic() - started):.0%}"
            bar.update(1, epoch=f"{self.epoch + 1}/{self.epochs}", **self._shown(), wait=wait)
            if self.step == self.feed.steps:
                break  # the epoch's end saves
            if self._stopping or time.monotonic() - last_saved > self.config.checkpoint_every_s:
                self._settle()
                self._save()
                last_saved = time.monotonic()
            if self._stopping:
                raise Interrupted(f"stopped at epoch {self.epoch + 1}, step {self.step}; run the same command to go on")
        self._settle()
        self._stopping = self._asked_to_stop
        return waited

    def _shown(self) -> dict[str, str]:
        """The epoch's figures so far for the bar; none before its first step has settled."""
        if not self.sums[0]:
            return {}
        means = self.sums[1:] / self.sums[0]
        return {
            "loss": f"{self._loss(means):.4f}",
            "mse": f"{means[0]:.5f}",
            "kl": f"{means[1:].sum():.2f}",
            "active": f"{active_units(means[1:])}/{self.config.latent}",
        }

    def _launch(self, batch: Any, stop: threading.Event) -> None:
        """Starts a step, then reads what came of the one before: the device need not wait for Python."""
        count = self.feed.count(self.step)
        means = self.stepper.train(batch["mel"], count=count, stop=stop.is_set(), step=self._global_step)
        self._settle()
        # Only here and at the epoch's end, where all workers have settled the same steps, never after a save.
        self._stopping = self._asked_to_stop
        self._launched = _Launched(self.epoch, self.step, count, batch["key"], means)
        self.step += 1

    def _settle(self) -> None:
        """Adds the launched step's figures, which say too whether one of the workers was asked to stop."""
        if self._launched is None:
            return
        launched, self._launched = self._launched, None
        reduced = self.stepper.read(launched.means)
        means = reduced[:-1]
        if not np.isfinite(means).all():
            figures = f" (mse {means[0]:g}, KL {means[1:].sum():g})"
            raise self._not_finite("the loss is not finite", launched, figures)
        self._asked_to_stop = self._asked_to_stop or bool(reduced[-1] > 0.0)
        self.sums += np.concatenate([[launched.examples], means * launched.examples])
        self._settled = launched

    def _not_finite(self, what: str, step: _Launched, figures: str = "") -> RunError:
        """Writes down which batches it was, and returns the sentence."""
        keys = self._readable(step)
        # The batch before can be the cause: its loss was finite, its gradient not.
        before = self._readable(self._settled) if self._settled else []
        if self.is_chief:
            place = {"epoch": step.epoch + 1, "step": step.step + 1}
            write_json(
                self.folder / NONFINITE, {**place, "problem": what + figures, "keys": keys, "keys_before": before}
            )
        more = f" and {len(keys) - _KEYS_NAMED} more" if len(keys) > _KEYS_NAMED else ""
        last = checkpoint.pointed(self.folder / CHECKPOINTS)
        return RunError(
            f"{self.folder}: {what} at epoch {step.epoch + 1}, step {step.step + 1}{figures}, in the batch of "
            f"{', '.join(keys[:_KEYS_NAMED])}{more} (all in {NONFINITE}); the last finite checkpoint is "
            f"{last or 'none yet'}: train into another run folder with a smaller --learning-rate or --precision float32"
        )

    def _readable(self, step: _Launched) -> list[str]:
        """The keys of this worker's part of a batch."""
        local = self.strategy.experimental_local_results(step.keys)
        return [key.decode() for part in local for key in np.asarray(part).tolist()]

    def _end_epoch(self, *, seconds: float, waited: float, steps: int) -> None:
        means = self.sums[1:] / self.sums[0]
        examples, pixels = steps * self.feed.batch_size, math.prod(self.spec.mel_shape)
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self._global_step,
            "loss": self._loss(means),
            "mse": float(means[0]),
            "kl": float(means[1:].sum()),
            "active_units": active_units(means[1:]),
            **self._validate(),
            "learning_rate": float(np.asarray(self.stepper.optimizer.learning_rate)),
            "examples_per_s": round(examples / max(seconds, 1e-9), 2),
            "input_wait": round(waited / max(seconds, 1e-9), 4),
            "input_mb_per_s": round(examples * pixels / 1e6 / max(seconds, 1e-9), 2),
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
        self._save(best=is_best, keep=self.config.keep_every > 0 and self.epoch % self.config.keep_every == 0)
        self._summarise()

    def _validate(self) -> dict[str, Any]:
        """Returns the validation split's metrics, with z at the posterior mean; empty without such a split."""
        if not self.feed.validates:
            self._latents = self._latents[0], self.sums[2:] / self.sums[0]
            return {}
        sums, z_means = np.zeros(2 + self.config.latent), []
        with self.feed.translate_input_errors("validation"):
            for batch, count in self.feed.validation():
                with together(self.strategy):  # a lost worker is no fault of the data
                    added, z_mean = self.stepper.evaluate(batch["mel"], count=count)
                    sums += np.asarray(added, np.float64)
                    z_means.append(np.asarray(z_mean))
        means = sums[1:] / sums[0]
        self._latents = np.concatenate(z_means)[:_LATENTS_SHOWN], means[1:]
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

    def _warn(self, bar: Progress) -> None:
        """Says what is wrong with the latent, each thing once."""
        found = latent_health.warnings(self.history, preset=self.config.preset, latent=self.config.latent)
        for cause, sentence in found.items():
            if cause not in self._said:
                self._said.add(cause)
                bar.message(f"train: {sentence}")

    def _summarise(self, *, last: bool = False) -> None:
        """Writes for TensorBoard: figures, and pictures where they are cheap beside the training, and at the end."""
        if not self.is_chief or not self.history:
            return
        if self._summaries is None:
            mels, ref_db = self.feed.shown(SHOWN)
            self._summaries = Summaries(self.folder, self.spec, latent=self.config.latent, mels=mels, ref_db=ref_db)
        if not last:
            self._summaries.scalars(self.history[-1])
        if last or self._summaries.due:
            z_mean, kl = self._latents
            self._summaries.draw(self.stepper.judged, epoch=self.epoch, z_mean=z_mean, kl=kl)

    @property
    def _global_step(self) -> int:
        return self.epoch * self.feed.steps + self.step

    def _loss(self, means: np.ndarray) -> float:
        mse, kl = float(means[0]), float(means[1:].sum())
        pixels, latent = math.prod(self.spec.mel_shape), self.config.latent
        return float(measure.objective(self.stepper.objective, mse, kl, pixels=pixels, latent=latent))

    # State -------------------------------------------------------------------

    def restore(self) -> None:
        """Loads the latest checkpoint, or starts the linear path from PCA of the training split."""
        # The chief alone reads: the others need no run folder, nor one that is up to date.
        saved = checkpoint.load(self.folder / CHECKPOINTS) if self.is_chief else None
        position: dict[str, Any] = {"epoch": 0, "step": 0, "best_loss": None, "sums": self.sums.tolist(), "history": []}
        if saved is not None:
            for name, variables in self.stepper.parts().items():
                assign(variables, saved.arrays, prefix=name, where=str(self.folder))
            state = saved.state
            # An epoch counts once its checkpoint stands.
            history = [row for row in read_history(self.folder) if row["epoch"] <= state["next_epoch"]]
            position = {name: state[name] for name in ("best_loss", "sums")}
            position |= {"epoch": state["next_epoch"], "step": state["next_step"], "history": history}
        elif self.is_chief:
            self.stepper.start(self.feed.sample())
        variables = [variable for part in self.stepper.parts().values() for variable in part]
        position, values = from_chief(self.strategy, position, [np.asarray(variable) for variable in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.epoch, self.step, self.history = position["epoch"], position["step"], position["history"]
        self.best_loss = math.inf if position["best_loss"] is None else position["best_loss"]
        self.sums = np.asarray(position["sums"])
        if self.is_chief:
            _write_history(self.folder, self.history)

    def _save(self, *, best: bool = False, keep: bool = False) -> None:
        if not self.is_chief:
            return
        arrays = {
            name: np.asarray(variable)
            for prefix, variables in self.stepper.parts().items()
            for name, variable in named(variables, prefix).items()
        }
        if self._settled and not all(np.isfinite(array).all() for array in arrays.values()):
            raise self._not_finite("the weights are not finite", self._settled)
        state = {
            "epoch": self.epoch,
            "step": self._global_step,
            "next_epoch": self.epoch,
            "next_step": self.step,
            "seed": self.config.seed,
            "sums": self.sums.tolist(),
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
        }
        checkpoint.save(self.folder / CHECKPOINTS, arrays, state, step=self._global_step, best=best, keep=keep)


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
