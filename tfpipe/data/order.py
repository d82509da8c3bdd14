"""The order in which the records of a split are read (needs TensorFlow).

The order is a function of (seed, epoch), under one global seed of TensorFlow
(`tfpipe.training` sets it). A position (epoch, step) is therefore enough to
continue exactly where a killed run stopped; no iterator checkpoint is read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfpipe.data.file_systems import use_file_system
from tfpipe.data.manifest import Folder, Shard
from tfpipe.data.position import Part
from tfpipe.files.remote import is_remote, join

# 4 096 examples of 27 KB are 113 MB: enough to mix dozens of tracks, and small beside a model.
_SHUFFLE_WINDOW = 4096
_INTERLEAVED_SHARDS = 16
# Records taken from a shard at a time. One at a time costs a tenth of the speed.
_BLOCK = 8
# Bytes per request to a remote store. TensorFlow's 256 KiB take less time to send than a request takes to start.
_REMOTE_BUFFER = 4 * 2**20


class Share(NamedTuple):
    """A run of records in a shard: `take` of them, after the first `skip`."""

    shard: Shard
    skip: int
    take: int


def own_shares(shares: Sequence[Share], part: Part, *, seed: int | None, epoch: int) -> list[Share]:
    """Divides the records of an epoch among workers that share by file, and returns one worker's.

    The records are cut into runs of equal length, one per worker, so that each
    worker reads whole shards except at the two ends of its run. With a seed,
    the shards are ordered by (seed, epoch) before the cut.
    """
    if seed is not None:
        shares = sorted(shares, key=lambda share: _seed(seed, epoch, share.shard.name))
    each = sum(share.take for share in shares) // part.total * part.replicas
    first, last = part.worker * each, (part.worker + 1) * each
    own, start = [], 0
    for share in shares:
        low, high = max(first, start), min(last, start + share.take)
        if low < high:
            own.append(Share(share.shard, low - start, high - low))
        start += share.take
    return own


def records(folder: Folder, shares: Sequence[Share], *, seed: int | None, epoch: int) -> tf.data.Dataset:
    """Streams serialised examples: in the order of the shares, or shuffled by (seed, epoch) if there is a seed.

    Raises:
        TfpipeError: TensorFlow cannot read the folder's URL.
    """
    shares = [share for share in shares if share.take]
    if not shares:
        return tf.data.Dataset.from_tensor_slices(tf.constant([], tf.string))
    use_file_system(folder, shard=shares[0].shard.name)
    read = functools.partial(_read_share, buffer=_REMOTE_BUFFER if is_remote(folder) else None)
    paths = [join(folder, share.shard.name) for share in shares]
    runs = np.array([(share.skip, share.take) for share in shares], np.int64)
    files = tf.data.Dataset.from_tensor_slices((paths, runs))
    if seed is None:
        return files.flat_map(read)
    files = files.shuffle(len(paths), seed=_seed(seed, epoch, "shards"), reshuffle_each_iteration=False)
    blocks = files.interleave(
        lambda path, run: read(path, run).batch(_BLOCK),
        cycle_length=min(_INTERLEAVED_SHARDS, len(paths)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    window = min(_SHUFFLE_WINDOW, sum(share.take for share in shares))
    return blocks.unbatch().shuffle(window, seed=_seed(seed, epoch, "examples"), reshuffle_each_iteration=False)


def own_part(batches: tf.data.Dataset, part: Part) -> tf.data.Dataset:
    """Keeps a worker's rows of each global batch of serialised examples, as one element per replica."""
    if part.total == 1:
        return batches

    def rows(batch: tf.Tensor) -> tf.data.Dataset:
        if part.whole:
            batch = tf.concat([batch, tf.repeat(batch[-1:], -tf.shape(batch)[0] % part.total, axis=0)], 0)
        each = tf.shape(batch)[0] // part.total
        first = part.worker * part.replicas * each
        own = tf.reshape(batch[first : first + part.replicas * each], [part.replicas, each])
        # If the batch has fewer rows than there are replicas, nobody gets an element.
        return tf.data.Dataset.from_tensor_slices(own).filter(lambda row: tf.shape(row)[0] > 0)

    return batches.flat_map(rows)


def _read_share(path: tf.Tensor, run: tf.Tensor, *, buffer: int | None) -> tf.data.Dataset:
    """Reads one share, and nothing after it: the shard may be damaged behind its good examples."""
    return tf.data.TFRecordDataset(path, buffer_size=buffer).skip(run[0]).take(run[1])


def _seed(*parts: object) -> int:
    """Returns the same seed on every version of TensorFlow; seeds of different `parts` are unrelated."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
