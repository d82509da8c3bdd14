"""`tp.train_vocoder`: trains the vocoder of a run from keywords. Loads no TensorFlow when it is imported."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.errors import UsageError
from tfpipe.training.vocoder_config import VocoderConfig
from tfpipe.workflow.configs import PathLike

if TYPE_CHECKING:
    from tfpipe.training.run_folder import Run


def train_vocoder(data: PathLike, run: PathLike | Run, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Trains the network that makes a run's sound clearer, or continues it. Export the run again to use it.

    Example:
        `tp.train_vocoder("data", "run", steps=2500)`

    Args:
        data: the dataset that the run was trained on. Its recordings must still be where they were.
        run: run folder, or what `train` returned.
        quiet: show no progress.
        **settings: `steps`, `seed` and `precision`, as for `tfpipe train-vocoder`.

    Returns:
        Of the best checkpoint: `step`, `loss`, `val_loss` (of held-out windows) and `without`, the loss that the
        held-out windows have without a vocoder.

    Raises:
        UsageError: a setting is unknown or out of range.
        RunError: there is no trained run, a recording cannot be read, or the run has a vocoder of other settings.
        Interrupted: stopped by a signal after saving.
    """
    unknown = set(settings) - {field.name for field in dataclasses.fields(VocoderConfig)}
    if unknown:
        raise UsageError(f"{', '.join(sorted(unknown))}: no setting of the vocoder; use steps, seed or precision")
    config = VocoderConfig(**settings)
    from tfpipe.process.progress import loading_tensorflow

    with loading_tensorflow("vocoder", quiet=quiet):
        from tfpipe.training.vocoder_training import train_vocoder as train
    folder = Path(run if isinstance(run, str | os.PathLike) else run.path)
    return train(os.fspath(data), folder, config, quiet=quiet)
