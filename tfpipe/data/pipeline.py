"""The input pipeline: a dataset folder to batches for the model (needs TensorFlow).

The pipeline counts batches. The number of a batch in the run gives its epoch and its step, these and the seed give its
examples (`tfpipe.data.order`), and they are read where they are (`tfpipe.data.reader`). Then come augmentation and
prefetching. A position is therefore enough to continue exactly, and nothing before it is read.
"""

from __future__ import annotations

import tensorflow as tf

from tfpipe.data import data_service
from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.batch_source import batches_of, make_source, shared_by_file
from tfpipe.data.manifest import Folder, Manifest, load_manifest
from tfpipe.data.parsing import augmenter, parse, without_autograph
from tfpipe.data.position import Part, Position
from tfpipe.data.serialised import serialised
from tfpipe.errors import DatasetError, UsageError
from tfpipe.spec import FeatureSpec, require_same_spec

_BATCHES_AHEAD = 4


def make_dataset(
    folder: Folder,
    *,
    split: str,
    batch_size: int,
    seed: int | None = None,
    position: Position | None = None,
    part: Part | None = None,
    expected_spec: FeatureSpec | None = None,
    manifest: Manifest | None = None,
    augment: AugmentConfig | None = None,
    service: tuple[str, ...] = (),
    shard_by: str = "record",
    epochs: int | None = 1,
) -> tf.data.Dataset:
    """Streams epochs of one split, by default one.

    For example, with a dataset folder `data` of 5 s windows::

        for batch in make_dataset("data", split="train", batch_size=16, seed=0):
            batch["mel"]    # [16, 128, 216, 1] uint8 codes; divided by 255 they are log-mel in [0, 1]
            batch["label"]  # [16] int64, indices into load_manifest("data").labels

    The last batch of an epoch may be smaller.

    Args:
        folder: dataset folder, local or at a URL that TensorFlow can read (`tfpipe.data.file_systems`).
        split: `train`, `validation` or `test`.
        batch_size: examples in a global batch, over all workers and replicas.
        seed: shuffles as a function of (seed, epoch); None keeps key order.
        position: where to start; None is the start of epoch 0.
        part: which part of every global batch this worker reads; None is all of it.
        expected_spec: refuse a dataset with another spec.
        manifest: the folder's manifest if the caller has read it, or the one that
            `tfpipe.data.damage.salvage` returned; None reads it.
        augment: augmentation of the windows. It is for training, so it needs a seed.
        service: addresses of data service processes. They change where the work is done, not the result.
        shard_by: `record`: each worker reads its rows of the global batches, which are the same for any number of
            workers. `file`: each worker reads and shuffles records of its own.
        epochs: number of epochs from the position on, the first of which may be a part; None never ends. The first
            batches of an epoch are read while the last ones of the epoch before are in use. With a service, only one.

    Returns:
        A dataset of known cardinality (infinite if `epochs` is None), with `mel` `[batch, n_mels, frames, 1]`
        uint8 (`tfpipe.features.log_mel_tf.to_mel` casts it on the device), `ref_db`
        `[batch]` float32 in dB, `label` `[batch]` int64 and `key` `[batch]` string.
        With several replicas, an element is one replica's part of a global batch.
        Rows that the replicas cannot share evenly are left out; if the batch size is
        a multiple of the number of replicas, these are at most replicas - 1 examples
        of an epoch's last batch. With `Part.whole` the last row is repeated instead.

    Raises:
        DatasetError: there is no complete dataset, or no example in the split.
        SpecMismatch: the dataset has another spec than expected.
        TfpipeError: a URL or a data service cannot be reached from here.
        UsageError: the batch is smaller than the number of replicas, or they cannot share
            it by file; a whole epoch is asked for by file; augmentation has no seed or
            does not fit the spec; more than one epoch is asked of a service.
    """
    manifest = manifest or load_manifest(folder)
    if expected_spec is not None:
        require_same_spec(expected_spec, manifest.spec, expected_from="the model", actual_from=str(folder))
    position, part = position or Position(), part or Part()
    if batch_size < part.total:
        raise UsageError(f"batch size {batch_size} is smaller than the {part.total} replicas; use a larger batch")
    if service and epochs != 1:
        raise UsageError(f"epochs={epochs}: a data service streams one epoch at a time; use epochs=1")
    steps = steps_per_epoch(manifest, split=split, batch_size=batch_size, replicas=1 if part.whole else part.total)
    if steps == 0:
        raise DatasetError(f"{folder}: no examples in split {split!r}; use a split that has some")
    augment_batch = augmenter(manifest.spec, augment=augment, seed=seed)
    source = make_source(folder, manifest, split=split, batch_size=batch_size, steps=steps, seed=seed, part=part)
    if shard_by == "file" and part.workers > 1:
        _require_shared_by_file(batch_size, part)
        source = shared_by_file(source, seed=seed)
    first = (position.epoch * steps + position.step) * part.replicas
    if service:

        def finish(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return augment_batch(tf.constant(position.epoch, tf.int64), parse(examples, manifest.spec))

        left = max(0, steps - position.step) * part.replicas
        examples = serialised(source, position=position)
        dataset = data_service.spread(examples, without_autograph(finish), service=service, total=left)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(left))
    else:
        if epochs is None:
            elements = tf.data.Dataset.counter(first)
        else:
            end = (position.epoch + epochs) * steps * part.replicas
            elements = tf.data.Dataset.range(first, max(first, end))
        batches = batches_of(source, manifest.spec, elements)
        dataset = batches.map(augment_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(_BATCHES_AHEAD).with_options(_without_autotune())


def steps_per_epoch(manifest: Manifest, *, split: str, batch_size: int, replicas: int = 1) -> int:
    """Returns the number of global batches in one epoch of `make_dataset`."""
    full, rest = divmod(manifest.examples(split), batch_size)
    return full + (1 if rest >= replicas else 0)


def _require_shared_by_file(batch_size: int, part: Part) -> None:
    if part.whole:
        raise UsageError("workers that share by file leave some examples out; for whole epochs use shard_by='record'")
    if batch_size % part.total:
        raise UsageError(f"batch size {batch_size}: {part.total} replicas cannot share it by file; use a multiple")


def _without_autotune() -> tf.data.Options:
    """Returns options that use all cores from the start, without the thread that tunes parallel calls.

    That thread sleeps for up to a minute, and an epoch that ends meanwhile would
    wait for it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
