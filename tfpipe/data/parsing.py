"""Turns serialised examples into batches of tensors (needs TensorFlow)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfpipe.data import augmentation_tf
from tfpipe.data.augmentation import AugmentConfig
from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec

Batch = dict[str, tf.Tensor]


def parse(serialised: tf.Tensor, spec: FeatureSpec) -> Batch:
    """Parses serialised examples `[batch]` into the batch that `tfpipe.data.pipeline.make_dataset` describes."""
    features = {
        "mel": tf.io.FixedLenFeature([], tf.string),
        "ref_db": tf.io.FixedLenFeature([], tf.float32),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "key": tf.io.FixedLenFeature([], tf.string),
    }
    batch = tf.io.parse_example(serialised, features)
    codes = tf.io.decode_raw(batch.pop("mel"), tf.uint8)
    return {"mel": tf.reshape(codes, [-1, *spec.mel_shape, 1]), **batch}


def augmenter(
    spec: FeatureSpec, *, augment: AugmentConfig | None, seed: int | None
) -> Callable[[tf.Tensor, Batch], Batch]:
    """Returns the function that augments a batch of an epoch `[]` int64, if any augmentation is on.

    Args:
        spec: feature spec of the examples.
        augment: the augmentation; None is none.
        seed: decides the augmentation's draws; needed if one is on.

    Raises:
        UsageError: augmentation without a seed, or settings that do not fit the spec.
    """
    if augment is None or not augment.on:
        return without_autograph(lambda epoch, batch: batch)
    if seed is None:
        raise UsageError(f"augmentation ({', '.join(augment.on)}) is for training: give make_dataset a seed")
    augment.check(spec)
    config = augment

    def apply(epoch: tf.Tensor, batch: Batch) -> Batch:
        return augmentation_tf.apply(batch, config, spec=spec, seed=seed, epoch=epoch)

    return without_autograph(apply)


def without_autograph(function: Callable[..., Batch]) -> Callable[..., Batch]:
    """AutoGraph would make the start of a pipeline slower, and no function here branches on a tensor's value."""
    unconverted: Callable[..., Batch] = tf.autograph.experimental.do_not_convert(function)
    return unconverted
