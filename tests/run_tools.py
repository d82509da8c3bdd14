"""Makes run folders without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.data.manifest import load_manifest
from tfpipe.model import networks
from tfpipe.training import checkpoint
from tfpipe.training.checkpoint import named
from tfpipe.training.config import TrainConfig
from tfpipe.training.run_folder import CHECKPOINTS, claim


def save_run(folder: Path, dataset: Path, models: networks.Models, **settings: Any) -> Path:
    """Writes a run folder with given weights, as training would."""
    manifest = load_manifest(dataset)
    claim(folder, TrainConfig(data=str(dataset), run=str(folder), **settings), manifest)
    arrays = {name: np.asarray(v) for part in models for name, v in named(part.weights, part.name).items()}
    checkpoint.save(folder / CHECKPOINTS, arrays, {"epoch": 1, "step": 1}, step=1, best=True)
    return folder
