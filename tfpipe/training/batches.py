"""The examples of a training run: its batches, and windows for PCA and for TensorBoard (needs TensorFlow)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.damage import require_unchanged, salvage, translate_input_errors
from tfpipe.data.data_service import addresses, watched
from tfpipe.data.manifest import MANIFEST, Folder, Manifest
from tfpipe.data.pipeline import make_dataset, steps_per_epoch
from tfpipe.data.position import Part, Position
from tfpipe.data.shard_cache import cached
from tfpipe.errors import TfpipeError
from tfpipe.features.log_mel import dequantise
from tfpipe.files.remote import join, stamp
from tfpipe.training.config import TrainConfig
from tfpipe.training.strategy import worker

# Windows for PCA: enough for 16 stable components; they take 113 MB.
_PCA_EXAMPLES = 1024


class Batches:
    """The examples of one run, in batches.

    Attributes:
        manifest: the dataset's, without the examples that are left out because they are damaged.
        lost: one sentence for each shard of which examples are left out.
        part: this worker's part of each global batch.
        batch_size: examples in a global batch.
        steps: global batches in an epoch of training.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest, strategy: tf.distribute.Strategy) -> None:
        self._config, self._strategy = config, strategy
        self.manifest, self._fingerprint = manifest, manifest.fingerprint
        self._service = addresses(config.data_service)
        self._folder: Folder = config.data
        if config.cache:
            self._folder = cached(config.data, Path(config.cache), splits=("train", "validation"))
        self.lost: list[str] = []
        if config.on_corrupt == "skip":
            for split in ("train", "validation"):
                self.manifest, lost = salvage(self._folder, self.manifest, split=split)
                self.lost += lost
        index, workers = worker(strategy)
        self.part = Part(worker=index, workers=workers, replicas=strategy.num_replicas_in_sync // workers)
        self.batch_size = int(config.batch_size or 0)
        self.steps = steps_per_epoch(self.manifest, split="train", batch_size=self.batch_size, replicas=self.part.total)
        self._augment = config.augment or AugmentConfig()
        self._augment.check(manifest.spec)
        self._validation: Iterator[Any] | None = None
        self._stamp: tuple[int, int] | None = None  # so that the first check reads the manifest

    @property
    def uneven(self) -> str:
        """A sentence if the replicas cannot share each training batch evenly, else an empty text."""
        size, replicas = self.batch_size, self.part.total
        rest = size % replicas
        if not rest:
            return ""
        return (
            f"{replicas} replicas cannot share batches of {size} evenly, so {rest} of each batch are left out, others "
            f"in each epoch; use --batch-size {size - rest} or {size - rest + replicas}"
        )

    @property
    def validates(self) -> bool:
        """Whether there is a validation split."""
        return self.manifest.examples("validation") > 0

    def count(self, step: int) -> int:
        """Returns the number of examples in the global batch of a training step."""
        count = min(self.batch_size, self.manifest.examples("train") - step * self.batch_size)
        return count - count % self.part.total

    def training(self, position: Position, *, epochs: int = 1) -> Iterator[Any]:
        """Yields the augmented batches of so many epochs from `position` on, each with one element per replica."""
        if not self._service:
            return iter(self._batches("train", position, seed=self._config.seed, epochs=epochs))
        # A data service streams one epoch at a time.
        starts = (position, *(Position(epoch=position.epoch + number) for number in range(1, epochs)))
        return itertools.chain.from_iterable(
            watched(self._batches("train", start, seed=self._config.seed), self._service) for start in starts
        )

    def validation(self) -> Iterator[tuple[Any, int]]:
        """Yields the batches of the validation split in key order, and the number of examples in each.

        A batch has one element per replica. If the replicas cannot share a batch evenly, its last example is
        repeated, so that the elements have more rows than the batch has examples.
        """
        if self._service:
            batches = watched(self._batches("validation", Position(), seed=None), self._service)
        else:
            # Kept from epoch to epoch: its first batches are read again while the next epoch trains.
            if self._validation is None:
                self._validation = iter(self._batches("validation", Position(), seed=None, epochs=None))
            batches = self._validation
        examples = self.manifest.examples("validation")
        try:
            for first in range(0, examples, self.batch_size):
                yield next(batches), min(examples - first, self.batch_size)
        except BaseException:
            self._validation = None  # it is not at the start of an epoch
            raise

    def translate_input_errors(self, split: str) -> AbstractContextManager[None]:
        """Translates read errors in the block; see `tfpipe.data.damage.translate_input_errors`."""
        return translate_input_errors(self._folder, self.manifest, split=split, fingerprint=self._fingerprint)

    def require_unchanged(self) -> None:
        """Checks that the dataset was not replaced since the run was started.

        Raises:
            DatasetError: it was replaced.
        """
        now = self._manifest_stamp()
        if now is None or now != self._stamp:
            require_unchanged(self._folder, self._fingerprint)
            self._stamp = now

    def _manifest_stamp(self) -> tuple[int, int] | None:
        """Returns size and time of the manifest, which tell whether it must be read; None if they are not known."""
        try:
            found = stamp(join(self._folder, MANIFEST))
        except (OSError, TfpipeError):
            return None
        return found if found[1] else None  # a web server may tell no time, and the size alone says little

    def sample(self) -> NDArray[np.float32]:
        """Returns log-mels `[n, n_mels, frames]` of a sample of the training examples."""
        dataset = self._plain("train", batch_size=16, seed=self._config.seed)
        with self.translate_input_errors("train"):
            sample = [batch["mel"][..., 0] for batch in dataset.take(_PCA_EXAMPLES // 16).as_numpy_iterator()]
        return dequantise(np.concatenate(sample))

    def shown(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns up to `count` held-out windows, the same for all runs: mel `[k, n_mels, frames]` and ref_db `[k]`."""
        split = "validation" if self.validates else "train"
        # Shuffled, because in key order all of them would be of one track.
        with self.translate_input_errors(split):
            batch = next(self._plain(split, batch_size=count, seed=0).as_numpy_iterator())
        return dequantise(batch["mel"][..., 0]), batch["ref_db"]

    def in_key_order(self, split: str, *, batch_size: int) -> tf.data.Dataset:
        """Returns all examples of a split in batches, without augmentation, as `make_dataset` gives them."""
        return self._plain(split, batch_size=batch_size, seed=None)

    def _plain(self, split: str, *, batch_size: int, seed: int | None) -> tf.data.Dataset:
        return make_dataset(self._folder, split=split, batch_size=batch_size, seed=seed, manifest=self.manifest)

    def _batches(self, split: str, position: Position, *, seed: int | None, epochs: int | None = 1) -> Iterable[Any]:
        training = split == "train"
        batches: Iterable[Any] = self._strategy.distribute_datasets_from_function(
            lambda _: make_dataset(
                self._folder,
                split=split,
                batch_size=self.batch_size,
                seed=seed,
                position=position,
                part=dataclasses.replace(self.part, whole=not training),
                manifest=self.manifest,
                augment=self._augment if training else None,
                service=self._service,
                shard_by=self._config.shard_by if training else "record",
                epochs=epochs,
            ),
            # On CPUs there is no device to fetch to, and deleting the iterator that fetches can take minutes.
            tf.distribute.InputOptions(experimental_fetch_to_device=bool(tf.config.list_physical_devices("GPU"))),
        )
        return batches
