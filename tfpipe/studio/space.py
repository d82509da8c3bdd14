"""What the studio knows of a model's latents: the directions in which they differ most, and a map of them.

Both come from latents of reference: windows of the corpus if `tfpipe report` has left them, else draws from the model.
A direction moves all steps of a latent alike, so a slider changes the whole window and not one moment of it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.client.calls import MAX_ROWS
from serving.client.vae import Vae
from tfpipe.errors import UsageError, translate_os_errors

FloatArray = NDArray[np.floating[Any]]
# Sliders; a slider goes this many standard deviations to each side.
DIRECTIONS, REACH = 6, 3.0
# Draws of each label, and in sum.
_DRAWS_EACH, _DRAWS = 8, 48
# Points of the map that come from the corpus.
_MOST_POINTS = 600


class Point(NamedTuple):
    """A latent of reference: `title` and `label` for people, and the seed if it is a draw."""

    title: str
    label: str
    seed: int | None


class Space:
    """Directions and the map, found when they are first needed. Threads may share it.

    Args:
        vae: the model.
        windows: `report-windows.parquet` of `tfpipe report`; None uses draws.

    Raises:
        UsageError: the file of windows is not one, or of another model.
    """

    def __init__(self, vae: Vae, windows: Path | None = None) -> None:
        self._vae = vae
        self._given = _read(windows, vae) if windows else None
        self._lock = threading.Lock()
        self._found: _Found | None = None

    def find(self) -> _Found:
        """Returns what is known; the first call takes seconds.

        Raises:
            ServingError: the model failed.
        """
        with self._lock:
            if self._found is None:
                points, z = self._given or _drawn(self._vae)
                self._found = _Found(points, z, self._shape(z.shape[1]))
            return self._found

    def place(self, z: FloatArray) -> tuple[float, float] | None:
        """Returns where a latent `[d]` lies on the map, or None while the map is not known."""
        found = self._found
        return None if found is None else found.place(z)

    def _shape(self, size: int) -> tuple[int, int]:
        steps, channels = self._vae.describe().get("latent_shape") or (1, size)
        return int(steps), int(channels)


class _Found:
    """The directions and the map of latents `[n, d]`."""

    def __init__(self, points: list[Point], z: FloatArray, shape: tuple[int, int]) -> None:
        self.points, self.z, self._shape = points, z, shape
        means = z.reshape(len(z), *shape).mean(axis=1)
        _, size, ways = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
        count = int(min(DIRECTIONS, np.sum(size > 1e-6 * max(size[0], 1e-12))))
        self.spread = size[:count] / np.sqrt(max(1, len(z) - 1))
        self._ways = ways[:count]
        features = self._features(z)
        self._middle = features.mean(axis=0)
        _, _, axes = np.linalg.svd(features - self._middle, full_matrices=False)
        self._axes = axes[:2]
        flat = (features - self._middle) @ self._axes.T
        self._low, self._high = flat.min(axis=0), flat.max(axis=0)
        self.places = [self.place(one) for one in z]

    def move(self, z: FloatArray, amounts: list[float]) -> FloatArray:
        """Returns a latent `[d]`, moved along each direction by so many standard deviations.

        Raises:
            UsageError: there are more amounts than directions, or one is out of range.
        """
        if len(amounts) > len(self._ways) or not all(abs(one) <= REACH for one in amounts):
            raise UsageError(f"use at most {len(self._ways)} amounts from {-REACH:g} to {REACH:g}")
        shift = (np.array(amounts) * self.spread[: len(amounts)]) @ self._ways[: len(amounts)]
        return np.asarray((z.reshape(self._shape) + shift).ravel(), np.float32)

    def place(self, z: FloatArray) -> tuple[float, float]:
        """Returns where a latent `[d]` lies on the map; those of reference lie in [0, 1] x [0, 1]."""
        flat = (self._features(z[np.newaxis])[0] - self._middle) @ self._axes.T
        x, y = np.clip((flat - self._low) / np.maximum(self._high - self._low, 1e-12), -0.1, 1.1)
        return float(x), float(y)

    def _features(self, z: FloatArray) -> FloatArray:
        """Returns `[n, 2 * channels]`: what a window holds, whenever it happens in it."""
        steps = np.asarray(z, np.float64).reshape(len(z), *self._shape)
        return np.concatenate([steps.mean(axis=1), steps.std(axis=1)], axis=1)


def _drawn(vae: Vae) -> tuple[list[Point], FloatArray]:
    """Draws windows of each label."""
    labels = [*vae.describe()["labels"]] if vae.prior() else []
    each = max(1, min(_DRAWS_EACH, _DRAWS // max(1, len(labels)))) if labels else _DRAWS // 2
    points, found = [], []
    for label in labels[:_DRAWS] or [None]:
        seeds = list(range(1, each + 1))
        points += [Point(f"draw {seed}{f' of {label}' if label else ''}", label or "", seed) for seed in seeds]
        found += [vae.generate(seeds[at : at + MAX_ROWS], 1.0, label).z for at in range(0, each, MAX_ROWS)]
    return points, np.concatenate(found)


def _read(path: Path, vae: Vae) -> tuple[list[Point], FloatArray]:
    """Reads the windows that `tfpipe report` wrote."""
    import pyarrow as pa
    from pyarrow import parquet

    fix = f"use the report-windows.parquet that `tfpipe report` wrote for {vae.target}"
    try:
        with translate_os_errors(path):
            table = parquet.read_table(path, columns=["recording", "start_s", "label", "z"]).to_pydict()
        z = np.array(table["z"], np.float32)[:_MOST_POINTS]
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UsageError(f"{path}: is no file of windows ({error}); {fix}") from error
    if z.ndim != 2 or z.shape[1] != vae.describe()["latent"]:
        raise UsageError(f"{path}: its latents are of another model; {fix}")
    rows = zip(table["recording"], table["start_s"], table["label"], strict=True)
    return [Point(f"{name}, {start:g} s", label, None) for name, start, label in rows][: len(z)], z
