"""The latents of a split, encoded once and read from disk at random while the prior is trained (needs TensorFlow).

The posteriors take a quarter of the space of the windows themselves (float16 means and log variances), and reading one
costs microseconds, so the encoder need not run again in each step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.records import is_original
from tfpipe.features.log_mel_tf import to_mel
from tfpipe.files.storage import atomic_folder, read_json, write_json
from tfpipe.process.progress import Progress
from tfpipe.training.batches import Batches

_STAMP, _POSTERIORS, _ABOUT = "stamp.json", "posteriors.npy", "about.npy"
_BATCH = 64

Encode = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Latents:
    """The posteriors of a split.

    Attributes:
        posteriors: mean and log variance of each example, `[n, 2, latent]` float16, on disk.
        about: label, and 1 for a window that is not shifted or stacked, `[n, 2]` int32.
    """

    posteriors: NDArray[np.float16]
    about: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.about)

    def rows(self, indices: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Returns the examples at `indices`: posteriors `[k, 2, latent]` float32, and `[k, 2]` as in `about`."""
        return self.posteriors[indices].astype(np.float32), self.about[indices]


def stored_latents(
    folder: Path, *, encode: Encode, batches: Batches, split: str, autoencoder: str, quiet: bool
) -> Latents:
    """Returns the latents of a split. They are encoded into `folder` unless they are there already.

    Args:
        folder: where the latents of the split are kept; it is written whole or not at all.
        encode: mel `[n, n_mels, frames, 1]` -> mean and log variance of z, each `[n, latent]`.
        batches: the dataset.
        split: which split; it may be empty.
        autoencoder: digest of the encoder's weights.
        quiet: show no progress.

    Raises:
        DatasetError: the split cannot be read.
        TfpipeError: the disk is full, or another OS error.
    """
    count = batches.manifest.examples(split)
    if not count:
        return Latents(posteriors=np.zeros((0, 2, 0), np.float16), about=np.zeros((0, 2), np.int32))
    stamp = {"autoencoder": autoencoder, "dataset": batches.manifest.fingerprint, "examples": count}
    if not (folder / _STAMP).is_file() or read_json(folder / _STAMP) != stamp:
        shutil.rmtree(folder, ignore_errors=True)  # first, so that there is room for the new ones
        with atomic_folder(folder) as temporary:
            _encode(temporary, encode, batches=batches, split=split, quiet=quiet)
            write_json(temporary / _STAMP, stamp)
    return Latents(posteriors=np.load(folder / _POSTERIORS, mmap_mode="r"), about=np.load(folder / _ABOUT))


def _encode(folder: Path, encode: Encode, *, batches: Batches, split: str, quiet: bool) -> None:
    """Writes posteriors and labels of a split, in key order."""
    count, done = batches.manifest.examples(split), 0
    about = np.zeros((count, 2), np.int32)
    posteriors: Any = None
    graph = tf.function(lambda codes: tf.stack(encode(to_mel(codes)), 1), autograph=False, reduce_retracing=True)
    with (
        Progress(f"encode {split}", total=count, unit="example", quiet=quiet) as bar,
        batches.translate_input_errors(split),
    ):
        for batch in batches.in_key_order(split, batch_size=_BATCH):
            rows = np.asarray(graph(batch["mel"]))
            if posteriors is None:
                shape = (count, *rows.shape[1:])
                open_memmap: Any = np.lib.format.open_memmap
                posteriors = open_memmap(folder / _POSTERIORS, "w+", np.float16, shape)
            where = slice(done, done + len(rows))
            posteriors[where] = rows
            about[where, 0] = np.asarray(batch["label"])
            about[where, 1] = [is_original(key.decode()) for key in batch["key"].numpy().tolist()]
            done += len(rows)
            bar.update(len(rows))
    posteriors.flush()
    np.save(folder / _ABOUT, about)
