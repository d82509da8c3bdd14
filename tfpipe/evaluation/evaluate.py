"""Measures a run on a split: errors beside baselines, what is heard, draws, and a verdict (needs TensorFlow).

docs/EVALUATION.md explains every figure. Splits are streamed: only samples of bounded size are held in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.manifest import Folder, Manifest, load_manifest
from tfpipe.data.shard_cache import cached
from tfpipe.errors import DatasetError, UsageError
from tfpipe.evaluation.bands import band_centres
from tfpipe.evaluation.baselines import Baselines
from tfpipe.evaluation.draws import judge_draws, knows_labels
from tfpipe.evaluation.hearing import MOST_WINDOWS, listen, spread
from tfpipe.evaluation.plots import spectrograms
from tfpipe.evaluation.reconstruction import (
    Reconstruction,
    by_band,
    kbit_per_s,
    measure_reconstruction,
    reconstruct,
)
from tfpipe.evaluation.verdict import DRAWS, verdict
from tfpipe.evaluation.windows import Sampler, Windows, sample, stream
from tfpipe.model import measure
from tfpipe.process.progress import Progress
from tfpipe.spec import FeatureSpec, require_same_spec
from tfpipe.training.latent_health import ACTIVE_NATS, active_units
from tfpipe.training.sources import keep_evaluation
from tfpipe.training.trained_model import TrainedModel, load_models

# Training windows in the sample: their Gram matrix takes 32 MB, and the windows themselves 220 MB.
_MOST_TRAINING = 2000
# Held-out windows that draws are compared with.
_MOST_HELD_OUT = 1000
# Training windows, as recorded, whose error tells whether the model is overfit.
_MOST_ORIGINALS = 128


def evaluate(
    data: Folder,
    run: str | Path,
    *,
    split: str = "test",
    which: str = "best",
    against: str | Path | None = None,
    plots: str | Path | None = None,
    cache: str | Path | None = None,
    draws: int = DRAWS,
    seed: int = 0,
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
        draws: windows to draw from the prior and to judge; 0 leaves this out.
        seed: of the draws.
        quiet: show no progress.

    Returns:
        The object of `tfpipe evaluate --json`: `split`, `windows`, `mse` (decoded from the
        posterior's mean), `kl` (nats, summed over the dimensions), `kl_per_dimension`,
        `active_units`, `dead` (dimensions that carry nothing), `latent`, `checkpoint`, `baselines`,
        and the groups `training`, `audio`, `draws` and `verdict` of docs/EVALUATION.md. A figure that could
        not be measured is an object whose `missing` says why.

    Raises:
        DatasetError: the split is empty.
        SpecMismatch: the run and the dataset have different specs.
        RunError: there is no run or no such checkpoint.
        UsageError: `draws` is 1 or negative.
    """
    # Long because the object has many groups; each group is a function of its own.
    if draws < 0 or draws == 1:
        raise UsageError(f"draws is {draws}; use 0 for none, or at least 2")
    manifest = load_manifest(data)
    if not manifest.examples(split):
        raise DatasetError(f"{data}: split {split!r} is empty; use --split {' or '.join(manifest.judged_by)}")
    model = _load(run, which, manifest, data)
    other = _load(against, which, manifest, data) if against is not None else None
    if cache is not None:
        data = cached(data, cache, splits={split, "train"})
    total = manifest.examples(split)
    sampler = Sampler.random(total, _MOST_HELD_OUT, seed=seed)
    found = measure_reconstruction(model, stream(data, split), total=total, quiet=quiet, sampler=sampler)
    held_out, training = sampler.windows(), _training(data, manifest, quiet=quiet)
    fitted = Baselines.fit(training.mels, shape=model.latent_shape)
    baselines, better = _baselines(fitted, found, data, split)
    if other is not None:
        rebuilt = measure_reconstruction(other, stream(data, split), total=total, quiet=quiet)
        baselines[other.metadata["preset"]] = {**_errors(other, rebuilt), "run": str(against)}
    if plots is not None:
        plot_reconstructions(model, held_out, split=split, path=Path(plots) / "reconstructions.png")
        plot_samples(model, path=Path(plots) / "samples.png")
    result = {
        "split": split,
        "windows": total,
        "tracks": len(set(held_out.track)),
        **_errors(model, found),
        "kl_per_dimension": [round(float(value), 4) for value in found.kl],
        "dead": np.flatnonzero(found.kl <= ACTIVE_NATS).tolist(),
        "checkpoint": {"which": which, "epoch": model.metadata["epoch"], "step": model.metadata["step"]},
        "baselines": baselines,
        "better_than_pca": better,
        "training": _training_error(model, fitted, training, split=split),
        "audio": {**_spectral(found, model.spec), **listen(model, spread(held_out, MOST_WINDOWS), quiet=quiet)},
        "draws": {"missing": "left out by --draws 0"},
    }
    if draws:
        windows = {"training": training, "held_out": held_out}
        result["draws"] = judge_draws(
            model, **windows, count=draws, seed=seed, is_held_out=split != "train", quiet=quiet
        )
    keep_evaluation(Path(run), result)
    return {**result, "verdict": verdict(result, has_prior=knows_labels(model))}


def _errors(model: TrainedModel, found: Reconstruction) -> dict[str, Any]:
    """Returns the figures of a model that stand beside those of another one."""
    return {
        "mse": float(found.mse.mean()),
        "kl": float(found.kl.sum()),
        "active_units": active_units(found.kl),
        "latent": model.latent,
    }


def plot_reconstructions(model: TrainedModel, windows: Windows, *, split: str, path: Path, count: int = 4) -> None:
    """Draws originals beside their reconstructions, for up to `count` windows, as many of each label as possible."""
    heard = spread(windows, count)
    chosen = heard if len(heard) else windows.take(np.arange(min(count, len(windows))))
    rebuilt = reconstruct(model, chosen.mels)
    errors = measure.squared_error(chosen.mels, rebuilt)
    panels = []
    for label, original, reconstruction, error in zip(chosen.label, chosen.mels, rebuilt, errors, strict=True):
        name = model.labels[label]
        panels += [
            (f"{name}, {split}: original", original),
            (f"{name}: reconstruction, mse {error:.5f}", reconstruction),
        ]
    spectrograms(path, panels, model.spec, columns=2)


def plot_samples(model: TrainedModel, *, path: Path, count: int = 4, seed: int = 0) -> None:
    """Draws `count` windows decoded from samples of the prior; a learned prior draws from each label in turn."""
    panels = []
    for index in range(count):
        label = index % len(model.labels) if knows_labels(model) else -1
        z = model.draw([seed + index], label=label)
        name = "sample" if label < 0 else model.labels[label]
        panels.append((f"{name}, seed {seed + index}", np.asarray(model.decoder(z, training=False))[0, ..., 0]))
    spectrograms(path, panels, model.spec, columns=2)


def _load(run: str | Path, which: str, manifest: Manifest, data: Folder) -> TrainedModel:
    """Loads a run's models, and checks that they were trained on the dataset's spec."""
    model = load_models(Path(run), which=which)
    require_same_spec(model.spec, manifest.spec, expected_from=str(run), actual_from=str(data))
    return model


def _training(data: Folder, manifest: Manifest, *, quiet: bool) -> Windows:
    """Returns a sample of the training windows."""
    total = manifest.examples("train")
    with Progress("read training windows", total=total, unit="window", quiet=quiet) as bar:
        return sample(data, "train", Sampler.random(total, _MOST_TRAINING), on_batch=bar.update)


def _baselines(
    fitted: Baselines, found: Reconstruction, data: Folder, split: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the baselines' errors on a split, and on how many windows the model is better than PCA."""
    mean, pca = fitted.errors(stream(data, split))
    figures = {"components": len(fitted.pca.basis), "steps": fitted.steps, "examples": fitted.examples}
    baselines = {"mean": {"mse": float(mean.mean())}, "pca": {**figures, "mse": float(pca.mean())}}
    return baselines, {"windows": int((found.mse < pca).sum()), "of": len(pca)}


def _training_error(model: TrainedModel, fitted: Baselines, training: Windows, *, split: str) -> dict[str, Any]:
    """Returns the errors of the model and of PCA on training windows as recorded, because held-out ones are so too."""
    if split == "train":
        return {"missing": "the windows above are those of training"}
    rows = np.flatnonzero(training.is_original)
    if not len(rows):
        return {"missing": "the sample of the training windows has variants alone"}
    places = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ORIGINALS)).astype(int)  # the rows are sorted by track
    originals = training.take(rows[places])
    found = measure_reconstruction(model, originals.batches(), total=len(originals), quiet=True)
    _, pca = fitted.errors(originals.batches())
    return {"windows": len(originals), "mse": float(found.mse.mean()), "pca_mse": float(pca.mean())}


def _spectral(found: Reconstruction, spec: FeatureSpec) -> dict[str, Any]:
    """Returns the figures of the group `audio` that need no audio."""
    hz: NDArray[np.float64] = band_centres(spec)
    return {
        "bands": by_band(found.band_mse, spec),
        "mel_bands": {"hz": np.round(hz, 1).tolist(), "mse": [float(f"{value:.4g}") for value in found.band_mse]},
        "log_spectral_distance_db": found.log_spectral_distance_db,
        "rate_kbit_s": kbit_per_s(float(found.kl.sum()), spec),
    }
