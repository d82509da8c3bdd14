"""What a run tells while it trains: messages, the progress line, rows of figures, TensorBoard (needs TensorFlow)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.files.storage import write_json
from tfpipe.process.progress import Progress
from tfpipe.training import checkpoint, latent_health
from tfpipe.training.batches import Batches
from tfpipe.training.config import TrainConfig
from tfpipe.training.forecast import forecast
from tfpipe.training.latent_health import active_units
from tfpipe.training.run_folder import CHECKPOINTS
from tfpipe.training.state import State
from tfpipe.training.step import Stepper
from tfpipe.training.tensorboard import SHOWN, Summaries
from tfpipe.training.time_left import TimeLeft

NONFINITE = "nonfinite.json"
# Slow input is reported if it takes more than this share of an epoch that lasts longer than this many seconds.
_SLOW_INPUT_SHARE, _SLOW_INPUT_EPOCH_S = 0.1, 10.0
# No estimate is printed if fewer examples are left, because such a training ends within seconds.
_ESTIMATED_EXAMPLES = 2000
# An error message names at most this many keys of examples; the file has all of them.
_KEYS_NAMED = 3


class Reporter:
    """Reports the progress of one run.

    Attributes:
        z_mean: posterior means of validation windows after the last epoch, `[n, latent]`, for TensorBoard.
        kl: mean KL per dimension after the last epoch, `[latent]`.
    """

    def __init__(self, config: TrainConfig, *, state: State, stepper: Stepper, batches: Batches) -> None:
        self._config, self._state, self._stepper, self._batches = config, state, stepper, batches
        self._is_chief = batches.part.worker == 0
        self._warned: set[str] = set()
        self._summaries: Summaries | None = None
        self._time_left = TimeLeft(epochs=int(config.epochs or 0), steps=batches.steps)
        self.z_mean, self.kl = np.zeros((0, stepper.latent), np.float32), np.zeros(stepper.latent)

    def start(self, bar: Progress) -> None:
        """Prints the size of the training, and what of the dataset is left out."""
        parameters = sum(math.prod(variable.shape) for variable in self._stepper.variables)
        bar.message(
            f"train: {self._batches.manifest.examples('train')} examples, {self._batches.steps} steps an epoch, "
            f"{self._config.epochs} epochs, {parameters:,} parameters, "
            f"{self._stepper.policy}, {self._batches.part.total} replica(s)"
        )
        for sentence in filter(None, [*self._batches.lost, self._batches.uneven]):
            bar.message(f"train: {sentence}")

    def estimate(self, bar: Progress) -> None:
        """Prints how long the training will take here, unless it is clearly short."""
        left = int(self._config.epochs or 0) * self._batches.steps - bar.done
        if left * self._batches.batch_size < _ESTIMATED_EXAMPLES:
            return
        policy, replicas = self._stepper.policy, self._batches.part.total
        expected = forecast(self._config, self._batches.manifest, policy=policy, replicas=replicas)
        if sentence := self._time_left.before_steps(expected, done=bar.done):
            bar.message(f"train: {sentence}")

    def step(self, bar: Progress, *, input_share: float) -> None:
        """Moves the progress line by one step; `input_share` is the share of the epoch's time spent on input."""
        notes: dict[str, str] = {}
        if self._state.sums[0]:  # no figures before the first step of the epoch is done
            means = self._state.means
            notes = {
                "loss": f"{self._stepper.loss(means):.4f}",
                "mse": f"{means[0]:.5f}",
                "kl": f"{means[1:].sum():.2f}",
                "active": f"{active_units(means[1:])}/{self._stepper.latent}",
            }
        bar.update(1, epoch=f"{self._state.epoch + 1}/{self._config.epochs}", **notes, wait=f"{input_share:.0%}")
        if sentence := self._time_left.after_step(bar.done):
            bar.message(f"train: {sentence}")

    def row(
        self,
        *,
        seconds: float,
        waited: float,
        steps: int,
        validation: NDArray[np.float64] | None,
        pauses: dict[str, float],
    ) -> dict[str, Any]:
        """Returns the line of `metrics.jsonl` for the epoch that ends.

        Args:
            seconds: duration of the epoch, or of the part of it since the run was continued.
            waited: seconds of it spent waiting for input.
            steps: steps in it.
            validation: means over the validation split, `[1 + latent]`, None if there is none.
            pauses: other seconds in which no step was started, by name.
        """
        examples, pixels = steps * self._batches.batch_size, self._stepper.pixels
        clock = max(seconds, 1e-9)
        return {
            "epoch": self._state.epoch + 1,
            "step": (self._state.epoch + 1) * self._batches.steps,
            **self._figures(self._state.means),
            **(self._figures(validation, prefix="val_") if validation is not None else {}),
            "learning_rate": float(np.asarray(self._stepper.optimizer.learning_rate)),
            "examples_per_s": round(examples / clock, 2),
            "input_wait": round(waited / clock, 4),
            "input_mb_per_s": round(examples * pixels / 1e6 / clock, 2),
            "seconds": round(seconds, 3),
            **{name: round(pause, 3) for name, pause in pauses.items()},
        }

    def slow_input(self, bar: Progress, *, waited: float, seconds: float) -> None:
        """Prints what to change if the epoch spent much of its time waiting for input."""
        if seconds > _SLOW_INPUT_EPOCH_S and waited > _SLOW_INPUT_SHARE * seconds:
            bar.message(
                f"train: {waited / seconds:.0%} of epoch {self._state.epoch + 1} went into waiting for input; "
                "a local --cache, less augmentation, more cores or --data-service would help"
            )

    def warn(self, bar: Progress, *, again: bool = False) -> None:
        """Prints the problems of the latent that were not printed before; with `again` all that still exist."""
        if again:
            self._warned.clear()
        found = latent_health.warnings(self._state.history, preset=self._config.preset, latent=self._stepper.latent)
        for cause, sentence in found.items():
            if cause not in self._warned:
                self._warned.add(cause)
                bar.message(f"train: {sentence}")

    def summarise(self, *, last: bool = False) -> None:
        """Writes for TensorBoard: figures of an epoch, and pictures if they take little time, and at the end."""
        history = self._state.history
        if not self._is_chief or not history:
            return
        if self._summaries is None:
            mels, ref_db = self._batches.shown(SHOWN)
            folder, spec = Path(self._config.run), self._batches.manifest.spec
            self._summaries = Summaries(folder, spec, latent=self._stepper.latent, mels=mels, ref_db=ref_db)
        if not last:
            self._summaries.scalars(history[-1])
        if last or self._summaries.due:
            self._summaries.draw(self._stepper.judged, epoch=self._state.epoch, z_mean=self.z_mean, kl=self.kl)

    def not_finite(self, problem: str, *, epoch: int, step: int, keys: list[str], keys_before: list[str]) -> str:
        """Writes the batches that may be the cause to `nonfinite.json`, and returns the error message.

        Args:
            problem: such as `the loss is not finite (mse nan, KL 3)`.
            epoch: finished epochs before the batch.
            step: finished steps of the epoch before the batch.
            keys: examples of this worker in the batch.
            keys_before: those of the batch before. It can be the cause: its loss was finite, its gradient not.
        """
        folder = Path(self._config.run)
        if self._is_chief:
            place = {"epoch": epoch + 1, "step": step + 1, "problem": problem}
            write_json(folder / NONFINITE, {**place, "keys": keys, "keys_before": keys_before})
        more = f" and {len(keys) - _KEYS_NAMED} more" if len(keys) > _KEYS_NAMED else ""
        what, _, figures = problem.partition(" (")
        return (
            f"{folder}: {what} at epoch {epoch + 1}, step {step + 1}{f' ({figures}' if figures else ''}, "
            f"in the batch of {', '.join(keys[:_KEYS_NAMED])}{more} (all in {NONFINITE}); the last finite checkpoint "
            f"is {checkpoint.pointed(folder / CHECKPOINTS) or 'none yet'}: train into another run folder with a "
            "smaller --learning-rate or --precision float32"
        )

    def _figures(self, means: NDArray[np.float64], *, prefix: str = "") -> dict[str, Any]:
        return {
            f"{prefix}loss": self._stepper.loss(means),
            f"{prefix}mse": float(means[0]),
            f"{prefix}kl": float(means[1:].sum()),
            f"{prefix}active_units": active_units(means[1:]),
        }
