"""The vocoder's part of a run folder: its files, and how the trained network is read (needs TensorFlow).

`RUN/vocoder/` has `config.json` (its settings), `checkpoints/`, `metrics.jsonl` (a line for each report) and `DONE`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfpipe.errors import RunError
from tfpipe.files.storage import read_json
from tfpipe.model.magnitudes import MagnitudeSize, build
from tfpipe.spec import FeatureSpec
from tfpipe.training import checkpoint
from tfpipe.training.run_folder import CHECKPOINTS, CONFIG, DONE, read_history

VOCODER = "vocoder"


def vocoder_config(run: Path) -> dict[str, Any] | None:
    """Returns the settings of a run's vocoder; None if it has none."""
    path = run / VOCODER / CONFIG
    return read_json(path) if path.is_file() else None


def vocoder_is_trained(run: Path) -> bool:
    """Tells whether the training of a run's vocoder has finished."""
    return vocoder_config(run) is not None and (run / VOCODER / DONE).exists()


def best_of_vocoder(run: Path) -> dict[str, Any] | None:
    """Returns the figures of the best report; None without a vocoder."""
    rows = read_history(run / VOCODER)
    return min(rows, key=lambda row: row["val_loss"]) if rows else None


def load_vocoder(run: Path, spec: FeatureSpec) -> Any:
    """Rebuilds a run's vocoder in float32, as a Keras model from `tfpipe.model.magnitudes.build`.

    Args:
        run: run folder.
        spec: feature spec of the run.

    Returns:
        The network; None if its training has not finished.

    Raises:
        RunError: the checkpoint is damaged.
    """
    if not vocoder_is_trained(run):
        return None
    stored = vocoder_config(run) or {}
    saved = checkpoint.load(run / VOCODER / CHECKPOINTS, checkpoint.BEST)
    if saved is None:
        raise RunError(f"{run / VOCODER}: has no checkpoint; delete the folder and run `tfpipe train-vocoder` again")
    network = build(spec, MagnitudeSize(width=stored["width"], depth=stored["depth"]))
    checkpoint.assign(network.weights, saved.arrays, prefix=VOCODER, where=str(run / VOCODER))
    return network
