"""Measures a run's reconstruction error on a held-out split, and two baselines (needs TensorFlow).

The baselines are the mean spectrogram, which is what a collapsed VAE learns,
and PCA with as many numbers as the latent has (of patches along time, if the latent
is a sequence), which is what a linear model learns. Both are computed from the training split of the same dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.damage import translate_input_errors
from tfpipe.data.manifest import SPLITS, Folder, Manifest, load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.shard_cache import cached
from tfpipe.errors import DatasetError
from tfpipe.evaluation.plots import spectrograms
from tfpipe.features.log_mel import dequantise
from tfpipe.model import measure
from tfpipe.model.pca import patches, principal_components, reconstruct_patches
from tfpipe.process.progress import Progress
from tfpipe.spec import require_same_spec
from tfpipe.training.latent_health import ACTIVE_NATS, active_units
from tfpipe.training.trained_model import TrainedModel, load_models

# The Gram matrix of so many examples takes 32 MB, and the examples themselves 220 MB.
_PCA_EXAMPLES = 2000
_BATCH = 32

# Starts a new pass over batches of log-mels `[batch, n_mels, frames]`.
Batches = Callable[[], Iterator[NDArray[np.float32]]]


def evaluate(
    data: Folder,
    run: str | Path,
    *,
    split: str = "test",
    which: str = "best",
    against: str | Path | None = None,
    plots: str | Path | None = None,
    cache: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures a run on one split.

    For example, `evaluate("data", "run")["mse"]` is the mean squared error per
    pixel of log-mels in [0, 1], on the test split.

    Args:
        data: dataset folder, local or a URL.
        run: run folder.
        split: `test`, `validation` or `train`.
        which: checkpoint: `best`, `latest` or the name of one, such as `step-00000120`.
        against: another run folder. It is measured on the same windows and becomes one more
            baseline, under the name of its preset, such as `notebook`.
        plots: folder for `reconstructions.png` and `samples.png`, made if missing.
        cache: local folder to which the shards are copied before they are read.
        quiet: show no progress.

    Returns:
        The object of `tfpipe evaluate --json`: `split`, `windows`, `mse` (decoded from the
        posterior's mean), `kl` (nats, summed over the dimensions), `kl_per_dimension`,
        `active_units`, `dead` (dimensions that carry nothing), `latent`, `checkpoint`, `baselines`.

    Raises:
        DatasetError: the split is empty.
        SpecMismatch: the run and the dataset have different specs.
        RunError: there is no run or no such checkpoint.
    """
    manifest = load_manifest(data)
    if not manifest.examples(split):
        filled = [name for name in SPLITS if manifest.examples(name)]
        raise DatasetError(f"{data}: split {split!r} is empty; use --split {' or '.join(filled)}")
    model = _load(run, which, manifest, data)
    other = _load(against, which, manifest, data) if against is not None else None
    if cache is not None:
        data = cached(data, cache, splits={split, "train"})
    total = manifest.examples(split)
    mse, kl = _reconstruction(model, data, split=split, total=total, quiet=quiet)
    baselines = _baselines(manifest, data, split=split, shape=model.latent_shape)
    if other is not None:
        other_mse, other_kl = _reconstruction(other, data, split=split, total=total, quiet=quiet)
        figures = {"mse": other_mse, "kl": float(other_kl.sum()), "active_units": active_units(other_kl)}
        baselines[other.metadata["preset"]] = {**figures, "latent": other.latent, "run": str(against)}
    if plots is not None:
        plot_reconstructions(model, data, split=split, path=Path(plots) / "reconstructions.png")
        plot_samples(model, path=Path(plots) / "samples.png")
    return {
        "split": split,
        "windows": total,
        "mse": mse,
        "kl": float(kl.sum()),
        "kl_per_dimension": [round(float(value), 4) for value in kl],
        "active_units": active_units(kl),
        "dead": np.flatnonzero(kl <= ACTIVE_NATS).tolist(),
        "latent": model.latent,
        "checkpoint": {"which": which, "epoch": model.metadata["epoch"], "step": model.metadata["step"]},
        "baselines": baselines,
    }


def plot_reconstructions(model: TrainedModel, data: Folder, *, split: str, path: Path, count: int = 4) -> None:
    """Draws originals beside their reconstructions, for `count` windows spread over a split (notebook, last cell)."""
    total = load_manifest(data).examples(split)
    chosen = _some(_mels(data, split), np.linspace(0, total - 1, min(count, total)).astype(int))
    z_mean, _ = model.encoder(chosen[..., None], training=False)
    rebuilt = np.asarray(model.decoder(z_mean, training=False))[..., 0]
    panels = []
    for index, (original, reconstruction) in enumerate(zip(chosen, rebuilt, strict=True), start=1):
        error = float(measure.squared_error(original[None], reconstruction[None])[0])
        panels += [(f"{split} {index}: original", original), (f"reconstruction, mse {error:.4f}", reconstruction)]
    spectrograms(path, panels, model.spec, columns=2)


def plot_samples(model: TrainedModel, *, path: Path, count: int = 4, seed: int = 0) -> None:
    """Draws `count` windows decoded from samples of the prior."""
    z = np.random.default_rng(seed).standard_normal((count, model.latent), dtype=np.float32)
    mels = np.asarray(model.decoder(z, training=False))[..., 0]
    spectrograms(path, [(f"sample {index + 1}", mel) for index, mel in enumerate(mels)], model.spec, columns=2)


def _load(run: str | Path, which: str, manifest: Manifest, data: Folder) -> TrainedModel:
    """Loads a run's models, and checks that they were trained on the dataset's spec."""
    model = load_models(Path(run), which=which)
    require_same_spec(model.spec, manifest.spec, expected_from=str(run), actual_from=str(data))
    return model


def _reconstruction(
    model: TrainedModel, data: Folder, *, split: str, total: int, quiet: bool
) -> tuple[float, NDArray[np.float64]]:
    """Returns the mean squared error and the mean KL of each dimension, `[latent]`, over a split."""
    squared, kl = 0.0, np.zeros(model.latent)
    with Progress("evaluate", total=total, unit="window", quiet=quiet) as bar:
        for mel in _mels(data, split)():
            z_mean, z_log_var = model.encoder(mel[..., None], training=False)
            rebuilt = np.asarray(model.decoder(z_mean, training=False))[..., 0]
            squared += float(measure.squared_error(mel, rebuilt).sum())
            kl += measure.kl(z_mean, z_log_var).sum(axis=0)
            bar.update(len(mel))
    return squared / total, kl / total


def _baselines(manifest: Manifest, data: Folder, *, split: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Returns the errors of the mean training spectrogram and of PCA with as many numbers as z has, on a split."""
    steps, components = shape
    # At random, because with a regular stride in key order every example could be the same variant.
    total = manifest.examples("train")
    drawn = np.random.default_rng(0).choice(total, min(total, _PCA_EXAMPLES), replace=False)
    training = _some(_mels(data, "train"), np.sort(drawn))
    mean, pca = training.mean(axis=0), principal_components(patches(training, steps), components)
    mean_error, pca_error = 0.0, 0.0
    for mel in _mels(data, split)():
        mean_error += float(measure.squared_error(mel, mean).sum())
        pca_error += float(measure.squared_error(mel, reconstruct_patches(pca, mel, steps)).sum())
    total = manifest.examples(split)
    figures = {"components": len(pca.basis), "steps": steps, "mse": pca_error / total, "examples": len(training)}
    return {"mean": {"mse": mean_error / total}, "pca": figures}


def _some(batches: Batches, indices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Returns the windows at sorted `indices`, `[k, n_mels, frames]`, without keeping the others in memory."""
    kept, seen = [], 0
    for mel in batches():
        inside = indices[(indices >= seen) & (indices < seen + len(mel))] - seen
        kept.append(mel[inside])
        seen += len(mel)
    return np.concatenate(kept)


def _mels(data: Folder, split: str) -> Batches:
    """Returns a function that streams a split's log-mels `[batch, n_mels, frames]` in [0, 1], in key order."""

    def stream() -> Iterator[NDArray[np.float32]]:
        with translate_input_errors(data, load_manifest(data), split=split):
            for batch in make_dataset(data, split=split, batch_size=_BATCH).as_numpy_iterator():
                yield dequantise(batch["mel"])[..., 0]

    return stream
