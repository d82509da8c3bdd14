"""Judges draws from a model's prior: are they like held-out windows, are they copies, have they the label asked for?

All distances are between embeddings (`tfpipe.evaluation.embedding`). A figure alone says little, so each stands beside
those of other windows: of training, which is the best that can be hoped for (floor); reconstructions of the held-out
windows, which is the best that this decoder allows; these reconstructions in pieces of 0.2 s in random order, which
have the right sounds but no melody or words; and white noise (ceiling).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.evaluation import distances
from tfpipe.evaluation.embedding import Floats, Whitening, describe_windows, out_of_order
from tfpipe.evaluation.label_classifier import LabelClassifier
from tfpipe.evaluation.reconstruction import reconstruct
from tfpipe.evaluation.windows import BATCH, Windows
from tfpipe.features.log_mel import log_mel
from tfpipe.process.progress import Progress
from tfpipe.training.trained_model import TrainedModel

# Windows that are blurred and made noisy, to fit the whitening.
_CHANGED = 128
# Training windows that draws are compared with, to find copies. Each is reconstructed, which takes most of the time.
_COMPARED = 1000
# A draw is a copy if it is nearer to a training window than this share of the median held-out window's distance. On
# the corpus of docs/EVALUATION.md, half of the copies that are shifted by 1 s lie below 0.45 of it, and 5 % of other
# windows below 0.7.
_COPY = 0.6
# Fewer held-out windows than this say nothing about draws.
LEAST_WINDOWS = 2
_NOISE_WINDOWS = 50


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Embeddings of draws.

    Attributes:
        points: `[n, features]`.
        asked: label that each was drawn for, `[n]`; -1 is any.
    """

    points: Floats
    asked: NDArray[np.int64]


def judge_draws(
    model: TrainedModel, *, training: Windows, held_out: Windows, count: int, seed: int, is_held_out: bool, quiet: bool
) -> dict[str, Any]:
    """Returns the group `draws` of an evaluation; `missing` in it says why something is not there.

    Args:
        model: the model.
        training: a sample of the training windows.
        held_out: a sample of the held-out windows.
        count: how many windows to draw.
        seed: draw i has the seed `seed + i`.
        is_held_out: whether `held_out` was kept from training.
        quiet: show no progress.
    """
    if min(len(training), len(held_out)) < LEAST_WINDOWS or count < LEAST_WINDOWS:
        return {"missing": f"needs {LEAST_WINDOWS} windows of each split, and as many draws"}
    if not training.codes.any() or not held_out.codes.any():
        return {"missing": "all windows are silent"}
    # The sample is in the order of tracks; parts of it must have some of all.
    training = training.take(np.random.default_rng(seed).permutation(len(training)))
    compared = training.take(np.arange(min(_COMPARED, len(training)) * is_held_out))
    total = len(training) + len(compared) + 2 * len(held_out) + count + _NOISE_WINDOWS
    with Progress("draws", total=total, unit="window", quiet=quiet) as bar:
        features = _features(training, model, bar)
        whitening = Whitening.fit(features, training.take(np.arange(min(_CHANGED, len(training)))).mels, model.spec)
        known = whitening.apply(features)
        points = whitening.apply(_features(held_out, model, bar))
        rebuilt, mixed = (whitening.apply(rows) for rows in _rebuilt_and_mixed(held_out, model, seed, bar))
        learned = [whitening.apply(describe_windows(mels, model.spec)) for mels in _rebuilt(compared, model, bar)]
        drawn = _draw(model, training, whitening, count=count, seed=seed, bar=bar)
        noise = whitening.apply(_noise(model, seed, bar))
    floor = known[:count]
    bandwidth = distances.median_distance(known)
    rows = {"draws": drawn.points, "training": floor, "reconstructions": rebuilt, "out of order": mixed, "noise": noise}
    result: dict[str, Any] = {
        "count": count,
        "prior": "learned" if knows_labels(model) else "standard normal",
        "held_out_windows": len(held_out),
        "training_windows": len(training),
        "against": {name: _against(row, points, bandwidth) for name, row in rows.items()},
    }
    kad = {name: row["kernel_distance"] for name, row in result["against"].items()}
    way = kad["noise"] - kad["training"]
    result["way_to_noise"] = (kad["draws"] - kad["training"]) / way if way > 0.0 else None
    result["nearest_training"] = {"missing": "these windows were trained on"}
    if learned:
        result["nearest_training"] = _nearest(drawn.points, rebuilt, np.concatenate(learned))
    result["label"] = _label(model, drawn, known, training.label, points, held_out.label)
    return result


def _features(windows: Windows, model: TrainedModel, bar: Progress) -> Floats:
    """Returns the features of windows, `[n, features]`."""
    parts = []
    for batch in windows.batches():
        parts.append(describe_windows(batch.mels, model.spec))
        bar.update(len(batch))
    return np.concatenate(parts)


def _rebuilt(windows: Windows, model: TrainedModel, bar: Progress) -> Iterator[Floats]:
    """Yields the windows' reconstructions, `[batch, n_mels, frames]`."""
    for batch in windows.batches():
        yield reconstruct(model, batch.mels)
        bar.update(len(batch))


def _rebuilt_and_mixed(windows: Windows, model: TrainedModel, seed: int, bar: Progress) -> tuple[Floats, Floats]:
    """Returns the features of the windows' reconstructions, and of these out of order, two arrays `[n, features]`."""
    rebuilt, mixed = [], []
    for number, mels in enumerate(_rebuilt(windows, model, bar)):
        rebuilt.append(describe_windows(mels, model.spec))
        mixed.append(describe_windows(out_of_order(mels, model.spec, seed=seed + number), model.spec))
    return np.concatenate(rebuilt), np.concatenate(mixed)


def _draw(
    model: TrainedModel, training: Windows, whitening: Whitening, *, count: int, seed: int, bar: Progress
) -> Drawn:
    """Draws windows, as many of each label as its share of the training windows if the prior knows labels."""
    asked = np.full(count, -1, np.int64)
    if knows_labels(model):
        shares = np.linspace(0.0, 1.0, count, endpoint=False) + 0.5 / count
        asked = np.sort(training.label)[(shares * len(training)).astype(int)]
    parts = []
    for label in np.unique(asked):
        seeds = seed + np.flatnonzero(asked == label)
        for start in range(0, len(seeds), BATCH):
            z = model.draw(seeds[start : start + BATCH], label=int(label))
            mels = np.asarray(model.decoder(z, training=False))[..., 0]
            parts.append(whitening.apply(describe_windows(mels, model.spec)))
            bar.update(len(z))
    return Drawn(points=np.concatenate(parts), asked=asked)


def knows_labels(model: TrainedModel) -> bool:
    """Tells whether the model's prior was trained, so that it knows labels."""
    return getattr(model, "prior", None) is not None


def _noise(model: TrainedModel, seed: int, bar: Progress) -> Floats:
    """Returns the features of white noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(_NOISE_WINDOWS):
        audio = 0.1 * rng.standard_normal(model.spec.samples)
        parts.append(describe_windows(log_mel(audio, model.spec).mel[None], model.spec))
        bar.update()
    return np.concatenate(parts)


def _against(made: Floats, held_out: Floats, bandwidth: float) -> dict[str, float]:
    density, coverage = distances.density_coverage(held_out, made)
    return {
        "kernel_distance": distances.kernel_distance(made, held_out, bandwidth=bandwidth),
        "frechet_distance": distances.frechet_distance(made, held_out),
        "density": density,
        "coverage": coverage,
    }


def _nearest(draws: Floats, held_out: Floats, known: Floats) -> dict[str, float]:
    """Compares the distances of draws and of held-out windows to their nearest training windows.

    All windows are reconstructions, because draws come out of the decoder too: a draw that copies a training window
    equals the window's reconstruction, not the window. It counts as a copy if it is much nearer than
    held-out windows are.
    """
    of_draws, of_held_out = distances.nearest(draws, known), distances.nearest(held_out, known)
    middle = float(np.median(of_held_out))
    return {
        "draws": float(np.median(of_draws)),
        "held_out": middle,
        "copies": float((of_draws < _COPY * middle).mean()),
        "training_windows": len(known),
        "copies_held_out": float((of_held_out < _COPY * middle).mean()),
    }


def _label(
    model: TrainedModel,
    drawn: Drawn,
    known: Floats,
    labels: NDArray[np.int64],
    held_out: Floats,
    held_out_labels: NDArray[np.int64],
) -> dict[str, Any]:
    """Returns the share of draws that a classifier gives the label they were drawn for, and its own accuracy."""
    if len(np.unique(labels)) < 2:
        return {"missing": "the training windows have one label"}
    classifier = LabelClassifier.fit(known, labels, count=len(model.labels))
    accuracy = {"accuracy_held_out": float((classifier.predict(held_out) == held_out_labels).mean())}
    found = classifier.predict(drawn.points)
    shares = np.bincount(found, minlength=len(model.labels)) / len(found)
    heard = {**accuracy, "draws_by_label": dict(zip(model.labels, shares.tolist(), strict=True))}
    if not knows_labels(model):
        return {**heard, "missing": "without a learned prior no label can be asked for"}
    return {**heard, "right": float((found == drawn.asked).mean())}
