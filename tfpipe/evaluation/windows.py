"""Windows of a dataset's split, streamed in batches or sampled at random (needs TensorFlow)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.damage import translate_input_errors
from tfpipe.data.manifest import Folder, load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.records import is_original
from tfpipe.features.log_mel import dequantise

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Some windows of a dataset. They are kept as 8-bit codes, because floats would take four times the memory.

    Attributes:
        codes: `[n, n_mels, frames]` uint8, see `tfpipe.features.log_mel.quantise`.
        ref_db: `[n]`, level of each window's maximum, dB.
        label: `[n]`, indices into the manifest's labels.
        key: `[n]` str, such as `3c09289b94cd7818/000000441000/shift+8`: track, first sample, variant.
    """

    codes: NDArray[np.uint8]
    ref_db: NDArray[np.float32]
    label: NDArray[np.int64]
    key: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def mels(self) -> NDArray[np.float32]:
        """The log-mels `[n, n_mels, frames]` in [0, 1]."""
        return dequantise(self.codes)

    @property
    def track(self) -> NDArray[np.str_]:
        """The start of each window's track hash, `[n]`."""
        return np.array([key.partition("/")[0] for key in self.key], dtype=np.str_)

    @property
    def is_original(self) -> NDArray[np.bool_]:
        """Whether each window is as recorded, `[n]`; the others are variants, such as shifted ones."""
        return np.array([is_original(key) for key in self.key], dtype=np.bool_)

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Windows:
        """Returns the windows at `rows`."""
        return Windows(codes=self.codes[rows], ref_db=self.ref_db[rows], label=self.label[rows], key=self.key[rows])

    def batches(self) -> Iterator[Windows]:
        """Yields all windows in order, a batch at a time."""
        for start in range(0, len(self), BATCH):
            yield self.take(np.arange(start, min(start + BATCH, len(self))))


def stream(data: Folder, split: str) -> Iterator[Windows]:
    """Yields all windows of a split in key order, a batch at a time."""
    with translate_input_errors(data, load_manifest(data), split=split):
        for batch in make_dataset(data, split=split, batch_size=BATCH).as_numpy_iterator():
            yield Windows(
                codes=batch["mel"][..., 0],
                ref_db=batch["ref_db"],
                label=batch["label"],
                key=np.array([key.decode() for key in batch["key"]], dtype=np.str_),
            )


class Sampler:
    """Keeps windows at given places of a stream; the others are not held in memory.

    Args:
        places: sorted numbers of the windows to keep, counted from the start of the stream.
    """

    def __init__(self, places: NDArray[np.integer[Any]]) -> None:
        self._places, self._seen = places, 0
        self._kept: list[Windows] = []

    @classmethod
    def random(cls, total: int, most: int, *, seed: int = 0) -> Sampler:
        """Returns one that keeps `most` of `total` windows, or all if there are fewer.

        The places are random, because with a regular stride in key order every window could be the same variant.
        """
        places = np.random.default_rng(seed).choice(total, min(total, most), replace=False)
        return cls(np.sort(places))

    def add(self, batch: Windows) -> None:
        """Takes the next batch of the stream."""
        here = self._places[(self._places >= self._seen) & (self._places < self._seen + len(batch))] - self._seen
        self._kept.append(batch.take(here))
        self._seen += len(batch)

    def windows(self) -> Windows:
        """Returns the windows kept so far, in the stream's order."""
        parts = self._kept
        return Windows(
            codes=np.concatenate([part.codes for part in parts]),
            ref_db=np.concatenate([part.ref_db for part in parts]),
            label=np.concatenate([part.label for part in parts]),
            key=np.concatenate([part.key for part in parts]),
        )


def sample(
    data: Folder, split: str, sampler: Sampler, *, on_batch: Callable[[int], object] = lambda _: None
) -> Windows:
    """Streams a split once, and returns what the sampler keeps of it.

    Args:
        data: dataset folder, local or a URL.
        split: `train`, `validation` or `test`.
        sampler: fresh.
        on_batch: called with the number of windows of each batch, for progress.
    """
    for batch in stream(data, split):
        sampler.add(batch)
        on_batch(len(batch))
    return sampler.windows()
