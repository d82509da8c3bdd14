"""Reads batches as a function of their number in the run (needs TensorFlow).

Every batch is computed from its number alone. One tf.data pipeline therefore serves all epochs of a run, begins at any
of them at once, and reads the first batches of an epoch while the last ones of the epoch before are in use.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.data.file_systems import use_file_system
from tfpipe.data.manifest import Folder, Manifest
from tfpipe.data.order import POOL, Numbers, Order, own_shares, shares_of
from tfpipe.data.position import Part
from tfpipe.data.reader import IS_COMPILED, Reader
from tfpipe.spec import FeatureSpec

Batch = dict[str, tf.Tensor]
# Epochs whose order is kept: the last batches of one are read at the same time as the first of the next.
_ORDERS = 3
# Batches that are read at the same time. Without the compiled reader, more threads would wait for Python's lock.
_READERS = min(8, os.cpu_count() or 1) if IS_COMPILED else 2


class Source(NamedTuple):
    """The batches of a split for one worker.

    Attributes:
        reader: reads the examples.
        order: returns the order of an epoch, of the examples that this worker shares with others or reads alone.
        batch_size: examples of that order in a batch.
        steps: batches in an epoch.
        part: which rows of such a batch this worker reads.
    """

    reader: Reader
    order: Callable[[int], Order]
    batch_size: int
    steps: int
    part: Part

    def rows(self, element: int) -> tuple[int, Numbers]:
        """Returns the epoch of an element of the pipeline, and the numbers of its examples in the epoch."""
        step, replica = divmod(element, self.part.replicas)
        epoch, step = divmod(step, self.steps)
        first = step * self.batch_size
        size = min(self.batch_size, self.order(epoch).total - first)
        each = -(-size // self.part.total) if self.part.whole else size // self.part.total
        own = (self.part.worker * self.part.replicas + replica) * each + np.arange(each)
        # With `whole`, the last row is repeated.
        return epoch, first + np.minimum(own, size - 1)

    def read(self, element: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Reads an element of the pipeline; called by TensorFlow."""
        epoch, numbers = self.rows(int(element))
        order = self.order(epoch)
        # The next pool is asked for when this one is begun, or the first of the next epoch.
        pool, last = int(numbers[-1]) // POOL, (order.total - 1) // POOL
        after = (epoch, pool + 1) if pool < last else (epoch + 1, 0)
        self.reader.expect((epoch, pool), lambda: order.pool(pool))
        self.reader.expect(after, lambda: self.order(after[0]).pool(after[1]))
        rows = self.reader.rows(order.places(numbers))
        return rows.mel, rows.ref_db, rows.label, np.array(rows.key, np.bytes_)


class _Given:
    """Holds a source, because nothing can refer weakly to a tuple."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, element: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        return self._source.read(element)


def make_source(
    folder: Folder, manifest: Manifest, *, split: str, batch_size: int, steps: int, seed: int | None, part: Part
) -> Source:
    """Returns the batches of a split whose rows all workers share.

    Raises:
        TfpipeError: TensorFlow cannot read the folder's URL.
    """
    shards = manifest.split_shards(split)
    use_file_system(folder, shard=next(shard.name for shard in shards if shard.examples))

    def order(epoch: int) -> Order:
        return Order(shares_of(shards), seed=seed, epoch=epoch if seed is not None else 0)

    reader = Reader(folder, manifest, split)
    return Source(reader, functools.lru_cache(_ORDERS)(order), batch_size, steps, part)


def shared_by_file(source: Source, *, seed: int | None) -> Source:
    """Returns the batches of a worker that reads and shuffles records of its own."""
    part = source.part

    def order(epoch: int) -> Order:
        return Order(own_shares(source.reader.shards, part, seed=seed, epoch=epoch), seed=seed, epoch=epoch)

    own = Part(replicas=part.replicas)
    return source._replace(
        order=functools.lru_cache(_ORDERS)(order), batch_size=source.batch_size // part.workers, part=own
    )


def batches_of(source: Source, spec: FeatureSpec, elements: tf.data.Dataset) -> tf.data.Dataset:
    """Reads the elements of the pipeline with these numbers `[]` int64.

    Returns:
        A dataset of (epoch, batch); see `tfpipe.data.pipeline.make_dataset` for the batch.
    """
    each_epoch = source.steps * source.part.replicas
    given = _Given(source)
    # TensorFlow keeps a function that it calls until the process ends, so this one refers weakly to what holds files.
    weak = weakref.WeakMethod(given.read)

    def read_element(element: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        method = weak()
        if method is None:
            raise RuntimeError("the dataset was deleted while an iterator of it was used")
        return method(element)

    @tf.autograph.experimental.do_not_convert
    def read(element: tf.Tensor) -> tuple[tf.Tensor, Batch]:
        types = (tf.uint8, tf.float32, tf.int64, tf.string)
        mel, ref_db, label, key = tf.numpy_function(read_element, [element], types, name="read_examples")
        batch = {
            "mel": tf.ensure_shape(mel, [None, *spec.mel_shape, 1]),
            "ref_db": tf.ensure_shape(ref_db, [None]),
            "label": tf.ensure_shape(label, [None]),
            "key": tf.ensure_shape(key, [None]),
        }
        return element // each_epoch, batch

    batches = elements.map(read, num_parallel_calls=_READERS, deterministic=True)
    batches.tfpipe_given = given  # lives as long as the dataset, which its iterators and later datasets refer to
    return batches
