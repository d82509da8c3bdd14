"""Training: one loop for every strategy and precision (needs TensorFlow).

The order of the examples and the noise are functions of (seed, step). A run that was killed therefore
continues from its checkpoint to the same weights, bit for bit, on a CPU in float32.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.corpus_check import describe_corpus
from tfpipe.data.manifest import Manifest, load_manifest
from tfpipe.data.position import Position
from tfpipe.errors import DatasetError, RunError
from tfpipe.files.storage import folder_lock, write_json
from tfpipe.model import precision
from tfpipe.process.progress import Progress
from tfpipe.training import raising
from tfpipe.training import state as states
from tfpipe.training.batches import Batches
from tfpipe.training.config import FLOW, TrainConfig
from tfpipe.training.initial import Initial, load_initial
from tfpipe.training.prior_training import train_prior
from tfpipe.training.raising import Raise
from tfpipe.training.reporting import Reporter
from tfpipe.training.run_folder import Run, claim, load_run, mark_done, planned_raises, stored_latent
from tfpipe.training.saving import Launched, Saver
from tfpipe.training.sources import SOURCES, find_sources
from tfpipe.training.stages import finished, finished_autoencoder
from tfpipe.training.state import State
from tfpipe.training.step import Stepper
from tfpipe.training.stopping import Interrupted, stop_signals
from tfpipe.training.strategy import from_chief, make_strategy, require_equal, together, worker

# Posterior means that are kept for TensorBoard's histogram.
_LATENTS_SHOWN = 4096


def train(config: TrainConfig, *, quiet: bool = False) -> Run:
    """Trains a VAE and its prior, or continues the unfinished run in the folder.

    Args:
        config: all settings; a folder that holds a run with other settings is refused.
        quiet: show no progress.

    Returns:
        The finished run.

    Raises:
        DatasetError: no usable dataset.
        RunError: the folder holds a run with other settings, or the loss is not finite.
        TfpipeError: another worker was lost, or was started with other settings.
        Interrupted: SIGINT or SIGTERM arrived, and the state is saved.
    """
    folder = Path(config.run)
    manifest = load_manifest(config.data)
    strategy = make_strategy(config.strategy)
    is_chief = worker(strategy)[0] == 0
    with ExitStack() as stack:
        stack.enter_context(together(strategy))
        if is_chief:
            stack.enter_context(folder_lock(folder, what="tfpipe train"))
        config = _with_stored_latent(config, manifest, strategy, is_chief=is_chief)
        if (run := finished(config)) is not None:
            return run
        stop = stack.enter_context(stop_signals())
        quiet = quiet or not is_chief
        if not quiet:
            _introduce(config, manifest)
        has_autoencoder, _ = from_chief(strategy, is_chief and finished_autoencoder(config) is not None)
        history = () if has_autoencoder else _train_autoencoder(config, manifest, strategy, stop=stop, quiet=quiet)
        if config.prior == FLOW:
            train_prior(config, manifest, strategy, stop=stop, quiet=quiet)
        if is_chief:
            return load_run(folder)
        # The other workers have no run folder, and may get here before the chief has written its last row.
        return Run(path=folder, config=config.to_dict(), spec=manifest.spec, history=history, done=True)


def _with_stored_latent(
    config: TrainConfig, manifest: Manifest, strategy: tf.distribute.Strategy, *, is_chief: bool
) -> TrainConfig:
    """Returns the config with the size of the latent of the run in the folder, if it leaves the size to the preset.

    Only the chief has a run folder. A size that a worker was started with stays, so that another one is refused.
    """
    stored, _ = from_chief(strategy, stored_latent(config, manifest) if is_chief and config.latent is None else None)
    return dataclasses.replace(config, latent=stored) if config.latent is None else config


def _introduce(config: TrainConfig, manifest: Manifest) -> None:
    """Prints what the dataset holds and what to expect. Training itself does not need the list of tracks."""
    with suppress(DatasetError):
        for sentence in describe_corpus(config.data, manifest):
            print(f"corpus: {sentence}", file=sys.stderr, flush=True)


def _train_autoencoder(
    config: TrainConfig, manifest: Manifest, strategy: tf.distribute.Strategy, *, stop: threading.Event, quiet: bool
) -> tuple[dict[str, Any], ...]:
    """Trains encoder and decoder; returns the rows of figures."""
    # The folder is claimed after the models are built, so that a size or a device that is refused leaves no trace.
    is_chief = worker(strategy)[0] == 0
    initial = load_initial(config, manifest.spec) if is_chief else None
    sources = find_sources(config.data, manifest) if is_chief else {}
    raises, _ = from_chief(strategy, planned_raises(config) if is_chief else [])
    trainer = Trainer(config, manifest, strategy, raises=raises)
    if is_chief:
        init = initial.record if initial else None
        claim(Path(config.run), config, manifest, machine=_machine(trainer), raises=raises, init=init)
        if not (Path(config.run) / SOURCES).exists():
            write_json(Path(config.run) / SOURCES, sources)
    trainer.restore(initial)
    trainer.run(stop, quiet=quiet)
    return tuple(trainer.state.history)


class Trainer:
    """A run in memory.

    Attributes:
        batches: the examples.
        stepper: models, optimizer and the compiled steps.
        state: how far the run is.
    """

    def __init__(
        self,
        config: TrainConfig,
        manifest: Manifest,
        strategy: tf.distribute.Strategy,
        *,
        raises: Sequence[Raise] = (),
    ) -> None:
        self.config, self.strategy, self.folder = config, strategy, Path(config.run)
        self.epochs = int(config.epochs or 0)
        self.batches = Batches(config, manifest, strategy)
        here: dict[str, Any] = {"policy": precision.resolve(config.precision), "shard_by": config.shard_by}
        here |= {"dataset": manifest.fingerprint, "left_out": self.batches.lost}
        require_equal(strategy, {**config.settings(), **here})
        part = self.batches.part
        self.is_chief = part.worker == 0
        total = self.epochs * self.batches.steps
        joined = [(each["epochs"] * self.batches.steps, each["step"]) for each in raises]
        self.stepper = Stepper(config, manifest.spec, strategy=strategy, part=part, total_steps=total, joined=joined)
        self.state = State(sums=np.zeros(2 + self.stepper.latent), raised_at=raises[-1]["epoch"] if raises else 0)
        self._raised = raising.sentence(raises, self.epochs)
        self._reporter = Reporter(config, state=self.state, stepper=self.stepper, batches=self.batches)
        self._launched: Launched | None = None
        self._settled: Launched | None = None
        self._asked_to_stop = self._stopping = False
        self._source: Iterator[Any] | None = None
        steps, seed = self.batches.steps, config.seed
        self._saver = Saver(self.folder, self.stepper, seed=seed, steps=steps, not_finite=self._weights_not_finite)

    def restore(self, initial: Initial | None = None) -> None:
        """Continues from the latest checkpoint, or starts a new run; see `tfpipe.training.state.restore`."""
        parts: dict[str, Any] = {"stepper": self.stepper, "batches": self.batches, "strategy": self.strategy}
        states.restore(self.folder, self.state, **parts, initial=initial)
        if initial is not None:
            self._save()  # from here on the other run is not needed
            self._saver.writer.wait()

    def run(self, stop: threading.Event, *, quiet: bool) -> None:
        """Trains from the current position to the end.

        Raises:
            Interrupted: `stop` was set, here or in another worker, and the state is saved.
            RunError: no training examples, or the loss or the weights are not finite.
            DatasetError: the dataset cannot be read, or was replaced.
        """
        if self.batches.steps == 0:
            raise RunError(f"{self.config.data}: no training examples; preprocess more audio")
        total, done = self.epochs * self.batches.steps, self._global_step
        with Progress("train", total=total, unit="step", done=done, quiet=quiet) as bar, self._saver.writer:
            self._reporter.start(bar)
            if self.state.notice:
                bar.message(f"train: {self.state.notice}")
            if not quiet:
                self._reporter.estimate(bar)
            if self._raised:
                bar.message(f"train: {self._raised}")
            # Checked before each epoch, because the run may have been killed after its last epoch.
            while self.state.epoch < self.epochs and not self._without_progress():
                self._epoch(stop, bar)
                if self._stopping and self.state.epoch < self.epochs:
                    self._saver.writer.wait()  # its error says more than that the run was stopped
                    raise Interrupted(f"stopped after epoch {self.state.epoch}; run the same command to continue")
            if self.state.epoch < self.epochs:
                bar.message(
                    f"train: no better validation loss for {self.config.patience} epochs, "
                    f"stopped after {self.state.epoch}"
                )
            self._reporter.summarise(last=True)
            self._reporter.warn(bar, again=True)
        if self.is_chief:
            mark_done(self.folder)

    def advance(self, source: Iterator[Any], *, stop: threading.Event, bar: Progress) -> float:
        """Takes the remaining steps of the epoch, and saves from time to time.

        Args:
            source: the batches from the current position on.
            stop: set when the process is asked to stop.
            bar: the progress line.

        Returns:
            Seconds spent waiting for `source`.

        Raises:
            Interrupted: a worker was asked to stop, and the state is saved.
            RunError: the loss or the weights are not finite.
            DatasetError: the batches cannot be read.
        """
        started = last_saved = time.monotonic()
        waited = 0.0
        while self.state.step < self.batches.steps:
            asked = time.monotonic()
            with self.batches.translate_input_errors("train"):
                batch = next(source)
            waited += time.monotonic() - asked
            self._launch(batch, stop)
            self._reporter.step(bar, input_share=waited / max(1e-9, time.monotonic() - started))
            if self.state.step == self.batches.steps:
                break  # the end of the epoch saves
            if self._stopping or time.monotonic() - last_saved > self.config.checkpoint_every_s:
                self._settle()
                self._save()
                last_saved = time.monotonic()
            if self._stopping:
                self._saver.writer.wait()
                place = f"epoch {self.state.epoch + 1}, step {self.state.step}"
                raise Interrupted(f"stopped at {place}; run the same command to continue")
        self._settle()
        self._stopping = self._asked_to_stop
        return waited

    def _epoch(self, stop: threading.Event, bar: Progress) -> None:
        """Trains the rest of the current epoch, validates, and saves."""
        started, first_step = time.monotonic(), self.state.step
        self.batches.require_unchanged()
        if self._source is None:  # one for the whole run, so that no epoch waits for its first batches
            here = Position(epoch=self.state.epoch, step=self.state.step)
            self._source = self.batches.training(here, epochs=self.epochs - self.state.epoch)
        starting = time.monotonic() - started
        waited = starting + self.advance(self._source, stop=stop, bar=bar)
        seconds, steps = time.monotonic() - started, self.state.step - first_step
        self._reporter.slow_input(bar, waited=waited, seconds=seconds)
        validation = self._validate()
        # The save at the end of an epoch is counted in the row of the next one, because this row is in it.
        pauses = {"validation_s": time.monotonic() - started - seconds, "save_wait_s": self._saver.seconds()}
        row = self._reporter.row(seconds=seconds, waited=waited, steps=steps, validation=validation, pauses=pauses)
        is_best = self.state.end_epoch(row)
        keep = self.config.keep_every > 0 and self.state.epoch % self.config.keep_every == 0
        self._save(best=is_best, keep=keep, row=True)
        self._reporter.summarise()
        self._reporter.warn(bar)

    def _launch(self, batch: Any, stop: threading.Event) -> None:
        """Starts a step, then reads the figures of the step before, so that the device does not wait for Python."""
        count = self.batches.count(self.state.step)
        means = self.stepper.train(batch["mel"], count=count, stop=stop.is_set(), step=self._global_step)
        self._settle()
        # Here and at the end of an epoch all workers have read the figures of the same steps, so they all stop at the
        # same step. A save reads one step further, and workers save at different times. So a request to stop that is
        # read during a save takes effect only here.
        self._stopping = self._asked_to_stop
        self._launched = Launched(self.state.epoch, self.state.step, count, batch["key"], means)
        self.state.step += 1

    def _settle(self) -> None:
        """Waits for the started step and adds its figures, which also tell whether a worker was asked to stop."""
        if self._launched is None:
            return
        launched, self._launched = self._launched, None
        reduced = self.stepper.read(launched.means)
        means = reduced[:-1]
        if not np.isfinite(means).all():
            self._saver.writer.wait()  # so that the message names the last checkpoint
            problem = f"the loss is not finite (mse {means[0]:g}, KL {means[1:].sum():g})"
            raise self._not_finite(problem, launched, self._settled)
        self._asked_to_stop = self._asked_to_stop or bool(reduced[-1] > 0.0)
        self.state.add(means, examples=launched.examples)
        self._settled = launched

    def _validate(self) -> NDArray[np.float64] | None:
        """Returns mean mse and KL of the validation split, `[1 + latent]`, or None if it is empty."""
        if not self.batches.validates:
            self._reporter.kl = self.state.means[1:]
            return None
        sums, z_means = np.zeros(2 + self.stepper.latent), []
        with self.batches.translate_input_errors("validation"):
            for batch, count in self.batches.validation():
                with together(self.strategy):  # the loss of a worker is not an error of the data
                    added, z_mean = self.stepper.evaluate(batch["mel"], count=count)
                    sums += np.asarray(added, np.float64)
                    z_means.append(np.asarray(z_mean))
        means = np.asarray(sums[1:] / sums[0])
        self._reporter.z_mean, self._reporter.kl = np.concatenate(z_means)[:_LATENTS_SHOWN], means[1:]
        return means

    def _save(self, *, best: bool = False, keep: bool = False, row: bool = False) -> None:
        if self.is_chief:
            self._saver.save(self.state, after=self._settled, best=best, keep=keep, row=row)

    def _weights_not_finite(self, after: Launched) -> RunError:
        return self._not_finite("the weights are not finite", after, after)

    def _not_finite(self, problem: str, at: Launched, earlier: Launched | None) -> RunError:
        before = earlier.own_keys(self.strategy) if earlier else []
        place = {"epoch": at.epoch, "step": at.step}
        return RunError(
            self._reporter.not_finite(problem, **place, keys=at.own_keys(self.strategy), keys_before=before)
        )

    def _without_progress(self) -> bool:
        """Tells whether the validation loss has not improved for `patience` epochs."""
        patience = self.config.patience or 0
        return patience > 0 and self.state.epochs_since_best() >= patience

    @property
    def _global_step(self) -> int:
        return self.state.epoch * self.batches.steps + self.state.step


def _machine(trainer: Trainer) -> dict[str, Any]:
    """Returns the values that `auto` was resolved to, and what is left out of the dataset, for `config.json`."""
    part = trainer.batches.part
    return {
        "policy": trainer.stepper.policy,
        "xla": trainer.stepper.jit,
        "replicas": part.total,
        "left_out": trainer.batches.lost,
        "shard_by": trainer.config.shard_by if part.workers > 1 else "record",
    }
