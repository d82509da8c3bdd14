"""Training the vocoder of a run, on one device (needs TensorFlow).

The windows of a step and the part of them that is looked at are functions of (seed, step). A training that was stopped
or killed therefore continues from its checkpoint as if nothing had happened.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.manifest import Folder, load_manifest
from tfpipe.errors import RunError
from tfpipe.features.inversion_tf import FAINTEST_LOG, covered_bins, estimated_magnitude, log_magnitude
from tfpipe.files.storage import folder_lock, read_json, write_json
from tfpipe.model import precision
from tfpipe.model.magnitudes import MagnitudeSize, build
from tfpipe.process.progress import Progress
from tfpipe.spec import require_same_spec
from tfpipe.training import checkpoint
from tfpipe.training.learning_rate import cosine
from tfpipe.training.optimizer import make_adam, move_average
from tfpipe.training.run_folder import CHECKPOINTS, CONFIG, mark_done, read_history, write_history
from tfpipe.training.state import arrays_of, take_over
from tfpipe.training.stopping import Interrupted, stop_signals
from tfpipe.training.trained_model import TrainedModel, load_models
from tfpipe.training.vocoder_config import VocoderConfig
from tfpipe.training.vocoder_folder import VOCODER, best_of_vocoder, vocoder_is_trained
from tfpipe.training.vocoder_windows import FULL_SCALE, RecordedWindows, read_windows

# Reports over the whole training; each measures held-out windows and saves a checkpoint.
_REPORTS = 15
# A step takes this many windows, half of them as recorded and half as decoded, and this many frames of each.
_BATCH, _FRAMES = 12, 96
_LEARNING_RATE, _AVERAGE = 1.5e-3, 0.998
# Most windows that are held in memory: 1 000 take 270 MB.
_MOST_WINDOWS, _MOST_HELD_OUT = 1200, 48
# Magnitudes are compared after they are raised to this power, which is near to how loud they are heard.
_LOUDNESS = 0.3


def train_vocoder(data: Folder, run: Path, config: VocoderConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Trains the vocoder of a run, or continues it.

    Args:
        data: the dataset that the run was trained on; its recordings must still be there.
        run: run folder.
        config: settings.
        quiet: show no progress.

    Returns:
        `step`, `loss` and `val_loss` of the best report, and `without`, the held-out loss without the network.

    Raises:
        RunError: there is no trained run, a recording cannot be read, or the folder has a vocoder of other settings.
        SpecMismatch: run and dataset have different specs.
        Interrupted: the process was asked to stop, and the state is saved.
    """
    manifest = load_manifest(data)
    model = load_models(run)
    require_same_spec(model.spec, manifest.spec, expected_from=str(run), actual_from=str(data))
    folder = run / VOCODER
    with folder_lock(folder, what="tfpipe train-vocoder"), stop_signals() as stop:
        policy = precision.resolve(config.precision)
        settings = {**vars(MagnitudeSize()), "steps": config.steps, "seed": config.seed, "policy": policy}
        _require_same(folder, settings)
        if not vocoder_is_trained(run):
            windows = [
                read_windows(data, manifest, split, model=model, most=most, quiet=quiet)
                for split, most in (("train", _MOST_WINDOWS), ("validation", _MOST_HELD_OUT))
            ]
            if not len(windows[0]):
                raise RunError(f"{data}: no recording to train on is louder than silence")
            write_json(folder / CONFIG, settings)
            trainer = _Trainer(folder, model, windows[0], windows[1], config, policy=policy, quiet=quiet)
            trainer.restore()
            trainer.run(stop)
    best = best_of_vocoder(run)
    if best is None:
        raise RunError(f"{folder}: has no figures; delete the folder and train again")
    return {name: best[name] for name in ("step", "loss", "val_loss", "without")}


def _require_same(folder: Path, settings: dict[str, Any]) -> None:
    """Checks that the vocoder in the folder, if there is one, has these settings."""
    stored = read_json(folder / CONFIG) if (folder / CONFIG).exists() else settings
    differing = [
        f"{name}: {stored.get(name)} there, {value} now"
        for name, value in settings.items()
        if stored.get(name) != value
    ]
    if differing:
        raise RunError(
            f"{folder}: holds a vocoder with other settings ({'; '.join(differing)}); use those, or delete the folder"
        )


class _Trainer:
    """The training in memory.

    Args:
        folder: `RUN/vocoder`.
        model: the run's model.
        training: windows to train on.
        held_out: windows to measure; those of training if there are none.
        config: settings.
        policy: Keras dtype policy.
        quiet: show no progress.
    """

    def __init__(
        self,
        folder: Path,
        model: TrainedModel,
        training: RecordedWindows,
        held_out: RecordedWindows,
        config: VocoderConfig,
        *,
        policy: str,
        quiet: bool,
    ) -> None:
        self._folder, self._spec, self._seed, self._steps = folder, model.spec, config.seed, config.steps
        self._training, self._held_out, self._quiet = training, held_out if len(held_out) else training, quiet
        keras.utils.set_random_seed(config.seed)
        self._network = build(self._spec, MagnitudeSize(), policy=policy)
        self._average = build(self._spec, MagnitudeSize(), policy=policy)
        for old, new in zip(self._average.weights, self._network.weights, strict=True):
            old.assign(new)
        rate = cosine(_LEARNING_RATE, total_steps=config.steps)
        self._optimizer = make_adam(rate, policy=policy, clip=1.0, beta_2=0.99)
        self._optimizer.build(self._network.trainable_variables)
        self._step, self._history, self._losses = 0, list[dict[str, Any]](), list[float]()
        self._train_graph = tf.function(self._train, autograph=False)
        self._measure_graph = tf.function(self._measure, autograph=False)

    def restore(self) -> None:
        """Continues from the latest checkpoint, or starts anew."""
        saved = checkpoint.load(self._folder / CHECKPOINTS)
        if saved is None:
            return
        take_over(saved, self._parts(), where=str(self._folder))
        self._step, self._losses = saved.state["step"], saved.state["losses"]
        self._history = [row for row in read_history(self._folder) if row["step"] <= self._step]

    def run(self, stop: threading.Event) -> None:
        """Trains from the current step to the end.

        Raises:
            Interrupted: the process was asked to stop, and the state is saved.
            RunError: the loss is not finite.
        """
        every = max(1, math.ceil(self._steps / _REPORTS))
        with Progress("vocoder", total=self._steps, unit="step", done=self._step, quiet=self._quiet) as bar:
            bar.message(f"vocoder: {len(self._training)} windows, {self._network.count_params():,} parameters")
            saved_at = time.monotonic()
            while self._step < self._steps:
                audio, mel, ref_db, start = self._batch(self._step)
                loss = float(self._train_graph(audio, mel, ref_db, start, tf.constant(self._step)))
                if not math.isfinite(loss):
                    raise RunError(
                        f"{self._folder}: the loss is not finite at step {self._step + 1}; delete the folder and train "
                        "again with --precision float32"
                    )
                self._losses.append(loss)
                self._step += 1
                bar.update(1, loss=f"{np.mean(self._losses[-100:]):.4f}", **self._last_measured())
                if self._step % every == 0 or self._step == self._steps:
                    self._report()
                    saved_at = time.monotonic()
                elif stop.is_set() or time.monotonic() - saved_at > 60.0:
                    self._save()
                    saved_at = time.monotonic()
                if stop.is_set() and self._step < self._steps:
                    raise Interrupted(f"stopped at step {self._step} of the vocoder; run the same command to continue")
        mark_done(self._folder)

    def _batch(self, step: int) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float32], tf.Tensor]:
        """Returns the sound, log-mels and levels of a step's windows, and the first frame to look at."""
        draw = np.random.default_rng([self._seed, step])
        rows = draw.integers(len(self._training), size=_BATCH)
        kinds = np.arange(_BATCH) % 2
        start = int(draw.integers(0, self._spec.frames - min(_FRAMES, self._spec.frames) + 1))
        windows = self._training
        return windows.audio[rows], windows.mels[kinds, rows], windows.ref_db[rows], tf.constant(start)

    def _report(self) -> None:
        """Measures held-out windows, and saves figures and a checkpoint."""
        parts = [
            self._measure_graph(self._held_out.audio[at : at + _BATCH], mels[at : at + _BATCH], levels)
            for mels in self._held_out.mels
            for at in range(0, len(self._held_out), _BATCH)
            for levels in [self._held_out.ref_db[at : at + _BATCH]]
        ]
        changed, without = np.concatenate([np.asarray(part) for part in parts], axis=1).mean(axis=1)
        row = {"step": self._step, "loss": float(np.mean(self._losses)), "val_loss": float(changed)}
        best = min((earlier["val_loss"] for earlier in self._history), default=math.inf)
        self._losses = []
        self._history.append({**row, "without": float(without)})
        write_history(self._folder, self._history)
        self._save(best=row["val_loss"] < best)

    def _save(self, *, best: bool = False) -> None:
        state = {"step": self._step, "losses": self._losses}
        arrays = arrays_of(self._parts())
        checkpoint.save(self._folder / CHECKPOINTS, arrays, state, step=self._step, best=best)

    def _parts(self) -> dict[str, Any]:
        """Returns the variables by the name of their part; `vocoder` is what is exported."""
        return {
            "network": self._network.weights,
            VOCODER: self._average.weights,
            "optimizer": self._optimizer.variables,
        }

    def _last_measured(self) -> dict[str, str]:
        if not self._history:
            return {}
        return {"held_out": f"{self._history[-1]['val_loss']:.4f} of {self._history[-1]['without']:.4f}"}

    def _train(
        self, audio: tf.Tensor, mel: tf.Tensor, ref_db: tf.Tensor, start: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        frames = min(_FRAMES, self._spec.frames)
        full, target = self._cut(audio, mel, ref_db, start=start, frames=frames)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self._losses_of(self._network, full, target))
            scaled = self._optimizer.scale_loss(loss)
        weights = self._network.trainable_variables
        self._optimizer.apply(tape.gradient(scaled, weights), weights)
        move_average(
            tf.distribute.get_strategy(), self._average.weights, self._network.weights, step=step, decay=_AVERAGE
        )
        return loss

    def _measure(self, audio: tf.Tensor, mel: tf.Tensor, ref_db: tf.Tensor) -> tf.Tensor:
        """Returns the losses with the network and without it, `[2, n]`."""
        full, target = self._cut(audio, mel, ref_db, start=tf.constant(0), frames=self._spec.frames)
        return tf.stack([self._losses_of(self._average, full, target), self._losses_of(None, full, target)])

    def _cut(
        self, audio: tf.Tensor, mel: tf.Tensor, ref_db: tf.Tensor, *, start: tf.Tensor, frames: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns some frames of log-mels `[n, n_mels, frames]`, and the log magnitudes of the sound in them."""
        spec, half = self._spec, self._spec.n_fft // 2
        samples = tf.pad(tf.cast(audio, tf.float32) / FULL_SCALE, [[0, 0], [half, spec.n_fft]])
        needed = (frames - 1) * spec.hop + spec.n_fft
        part = tf.slice(samples, [0, start * spec.hop], [-1, needed])
        magnitude = tf.abs(tf.signal.stft(part, spec.n_fft, spec.hop, window_fn=_window))
        first, count = covered_bins(spec)
        loudest = tf.pow(10.0, ref_db / (10.0 * spec.power))[:, tf.newaxis, tf.newaxis]
        full = tf.slice(tf.cast(mel, tf.float32) / 255.0, [0, 0, start], [-1, -1, frames])
        return full, log_magnitude(magnitude[:, :, first : first + count] / loudest)

    def _losses_of(self, network: Any, full: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Returns the loss of each window `[n]`: how wrong the magnitudes are, where it is heard.

        It is the mean error of the magnitudes to the power 0.3, plus that of their logs, weighted by this power.
        """
        log = log_magnitude(estimated_magnitude(full, self._spec))
        if network is not None:
            log += network(tf.transpose(full, [0, 2, 1]), training=network is self._network)
        # Below the faintest level a small slope is left, so that the network can come back from there.
        log = tf.maximum(log, FAINTEST_LOG) + 0.01 * tf.minimum(log - FAINTEST_LOG, 0.0)
        loudness = tf.exp(_LOUDNESS * target)
        compressed = tf.reduce_mean(tf.abs(tf.exp(_LOUDNESS * tf.minimum(log, 10.0)) - loudness), [1, 2])
        weighted = tf.reduce_mean(loudness * tf.abs(log - target), [1, 2]) / tf.reduce_mean(loudness, [1, 2])
        return 10.0 * compressed + weighted


def _window(length: int, dtype: tf.DType) -> tf.Tensor:
    return tf.signal.hann_window(length, periodic=True, dtype=dtype)
