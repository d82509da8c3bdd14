"""The prior's part of a run folder: its files, and how they are read (the trained prior needs TensorFlow).

`RUN/prior/` has `config.json` (its settings), `checkpoints/`, `metrics.jsonl` (a line for each report) and `DONE`, as
the run folder itself has for the autoencoder. While it is trained, `latents/` holds the encoded examples.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpipe.data.manifest import Manifest
from tfpipe.errors import RunError
from tfpipe.files.storage import read_json
from tfpipe.model.latent_shape import LatentShape
from tfpipe.model.presets import PriorSize
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig
from tfpipe.training.run_folder import CHECKPOINTS, CONFIG, DONE, read_history

if TYPE_CHECKING:
    from tfpipe.model.prior import Prior

PRIOR, LATENTS = "prior", "latents"


def autoencoder_digest(saved: checkpoint.Checkpoint) -> str:
    """Returns the SHA-256 of encoder and decoder in a checkpoint. A prior belongs to one of them."""
    sha256 = hashlib.sha256()
    for name, array in sorted(saved.arrays.items()):
        if name.startswith(("encoder/", "decoder/")):
            sha256.update(f"{name} {array.dtype} {array.shape} ".encode())
            sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def prior_settings(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """Returns the settings that decide the training of the prior, as its `config.json` has them."""
    size = config.prior_size()
    names = ("width", "depth", "batch_size", "learning_rate")
    steps = config.prior_steps or size.steps(manifest.examples("train"))
    return {**{name: getattr(size, name) for name in names}, "steps": steps, "seed": config.seed}


def prior_config(run: Path) -> dict[str, Any] | None:
    """Returns the settings of a run's prior; None if it has none."""
    path = run / PRIOR / CONFIG
    return read_json(path) if path.is_file() else None


def prior_is_trained(run: Path) -> bool:
    """Tells whether the training of a run's prior has finished, for the autoencoder that is the best now."""
    stored = prior_config(run)
    if stored is None or not (run / PRIOR / DONE).exists():
        return False
    best = checkpoint.load(run / CHECKPOINTS, checkpoint.BEST)
    return best is not None and stored["autoencoder"] == autoencoder_digest(best)


def best_of_prior(run: Path) -> dict[str, Any] | None:
    """Returns the figures of the prior's best checkpoint; None without a prior.

    That is the one with the smallest loss on held-out windows, or the last one if there are none.
    """
    rows = read_history(run / PRIOR)
    if not rows:
        return None
    return min(rows, key=lambda row: row["val_loss"]) if "val_loss" in rows[-1] else rows[-1]


def load_prior(run: Path, *, autoencoder: str) -> Prior | None:
    """Rebuilds a run's prior in float32.

    Args:
        run: run folder.
        autoencoder: digest of the encoder and decoder that it is to be used with.

    Returns:
        The prior; None if the run has none, or it was trained for other weights.

    Raises:
        RunError: the checkpoint is damaged.
    """
    from tfpipe.model import prior

    stored = prior_config(run)
    if stored is None or stored["autoencoder"] != autoencoder:
        return None
    saved = checkpoint.load(run / PRIOR / CHECKPOINTS, checkpoint.BEST)
    if saved is None:
        return None
    shape, labels = LatentShape(*stored["latent_shape"]), len(stored["labels"])
    size = PriorSize(width=stored["width"], depth=stored["depth"])
    network = prior.build(size, shape, labels=labels)
    checkpoint.assign(network.weights, saved.arrays, prefix="prior", where=str(run / PRIOR))
    return prior.Prior(network=network, shape=shape, labels=labels, original=saved.state["original"])


def require_same_settings(folder: Path, wanted: dict[str, Any]) -> None:
    """Checks that the prior in a folder has the wanted settings.

    Raises:
        RunError: it has others; the message names them.
    """
    stored = read_json(folder / CONFIG)
    differing = [
        f"{name}: {stored.get(name)} there, {wanted[name]} now" for name in wanted if stored[name] != wanted[name]
    ]
    if differing:
        raise RunError(
            f"{folder}: holds a prior with other settings ({'; '.join(differing)}); use those, or delete the folder "
            "to train the prior anew"
        )
