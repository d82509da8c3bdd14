"""The batches of one epoch as serialised examples, read by TensorFlow alone (needs TensorFlow).

The processes of a data service have no Python code of ours, so they read with TensorFlow's own reader, in the order of
`tfpipe.data.order`. The places of an epoch's examples are constants of the pipeline: 5 bytes an example.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfpipe.data.batch_source import Source
from tfpipe.data.order import BLOCK, POOL
from tfpipe.data.position import Part, Position

_POOLS_AHEAD = 1


def serialised(source: Source, *, position: Position) -> tf.data.Dataset:
    """Streams the rest of an epoch as serialised examples, one element for each replica."""
    order, reader = source.order(position.epoch), source.reader
    first = position.step * source.batch_size
    pools = range(first // POOL, -(-order.total // POOL))
    paths, begins, counts, within = [], [], [], []
    for pool in pools:
        found = order.pool(pool)
        # A new run of neighbours begins where the shard changes or the record is not the next one.
        new = (np.diff(found.shards, prepend=-1) != 0) | (np.diff(found.records, prepend=-2) != 1)
        new |= found.records % BLOCK == 0  # so that no element of the pipeline is larger than a block
        starts = np.flatnonzero(new)
        for start, count in zip(starts, np.diff(starts, append=len(new)), strict=True):
            shard = int(found.shards[start])
            paths.append(shard)
            begins.append(reader.where(shard).at(int(found.records[start])))
            counts.append(count)
        within.append(order.within(pool))
    names = tf.constant(reader.paths)
    columns = (np.array(paths, np.int32), np.array(begins, np.int64), np.array(counts, np.int64))

    @tf.autograph.experimental.do_not_convert
    def read(shard: tf.Tensor, begin: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        raw = tf.raw_ops.TFRecordDatasetV2(
            filenames=names[shard][None],
            compression_type="",
            buffer_size=tf.constant(2**20, tf.int64),
            byte_offsets=begin[None],
        )
        records = tf.data.experimental.from_variant(raw, tf.TensorSpec([], tf.string))
        return records.take(count).batch(BLOCK * POOL).get_single_element()

    blocks = tf.data.Dataset.from_tensor_slices(columns).map(
        read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    shuffles = tf.data.Dataset.from_tensor_slices(
        np.concatenate([np.empty(0, np.int64), *within]).astype(np.int32)
    ).batch(POOL)
    shuffled = tf.data.Dataset.zip((blocks.unbatch().batch(POOL), shuffles)).map(tf.gather)
    examples = shuffled.prefetch(_POOLS_AHEAD).unbatch().skip(first - pools.start * POOL)
    return _own_part(examples.batch(source.batch_size), source.part)


def _own_part(batches: tf.data.Dataset, part: Part) -> tf.data.Dataset:
    """Keeps a worker's rows of each global batch, as one element per replica."""
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
