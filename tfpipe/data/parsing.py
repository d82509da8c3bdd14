"""Turns serialised examples into batches of tensors (needs TensorFlow)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from tfpipe.data import augmentation_tf
from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.position import Position
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


def parser(
    spec: FeatureSpec, *, augment: AugmentConfig | None, seed: int | None, position: Position
) -> Callable[[tf.Tensor], Batch]:
    """Returns the function that parses a batch, and augments it if any augmentation is on.

    Args:
        spec: feature spec of the examples.
        augment: the augmentation; None is none.
        seed: decides the augmentation's draws; needed if one is on.
        position: its epoch decides the draws too.

    Raises:
        UsageError: augmentation without a seed, or settings that do not fit the spec.
    """
    if augment is None or not augment.on:
        return _without_autograph(functools.partial(parse, spec=spec))
    if seed is None:
        raise UsageError(f"augmentation ({', '.join(augment.on)}) is for training: give make_dataset a seed")
    augment.check(spec)
    apply = functools.partial(augmentation_tf.apply, config=augment, spec=spec, seed=seed, epoch=position.epoch)

    def parse_and_augment(serialised: tf.Tensor) -> Batch:
        return apply(parse(serialised, spec))

    return _without_autograph(parse_and_augment)


def _without_autograph(function: Callable[[tf.Tensor], Batch]) -> Callable[[tf.Tensor], Batch]:
    """AutoGraph would make the start of each epoch slower, and no function here branches on a tensor's value."""
    unconverted: Callable[[tf.Tensor], Batch] = tf.autograph.experimental.do_not_convert(function)
    return unconverted
