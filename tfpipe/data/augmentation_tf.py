"""Augmentation of training batches inside the tf.data graph (needs TensorFlow).

Every draw is a function of (seed, epoch, the example's key, the draw's name)
and of nothing else. It does not depend on the batch, the worker or the order,
so a resumed run draws the same again. The variants of one window have different
keys, so they are augmented differently.

tensorflow-io's `tfio.audio.freq_mask` and `time_mask` (0.37.1) are not used,
because they draw one scalar width and start per call from TensorFlow's stateful
generator. In a pipeline they cannot be seeded per example, and a resumed run
could not draw the same again. The masks here follow the same definition, so
their results have the same distribution.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable

import tensorflow as tf

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.spec import FeatureSpec

# Takes the name of a draw and returns uniform numbers in [0, 1), `[batch]` float64.
_Draw = Callable[[str], tf.Tensor]
# 32 bits stay exact in float64, even multiplied by a number of bands or frames.
_STEPS = 2**32


def apply(
    batch: dict[str, tf.Tensor], config: AugmentConfig, *, spec: FeatureSpec, seed: int, epoch: int | tf.Tensor
) -> dict[str, tf.Tensor]:
    """Augments a parsed batch: gain, mixup, roll, masks, in that order.

    The function is pure and works on the whole batch at once, on 8-bit codes.
    After mixup a row keeps its label and key, because its own share is at least
    half. The masks come last, so that masked cells are 0.

    Args:
        batch: the output of `tfpipe.data.parsing.parse`, with `mel` `[batch, n_mels, frames, 1]` uint8.
        config: which augmentations to apply.
        spec: the feature spec of the batch.
        seed: decides the draws, together with the epoch and each example's key.
        epoch: every epoch augments the same windows differently.

    Returns:
        A batch of the same structure, shapes and types.

    Raises:
        UsageError: a setting does not fit the spec.
    """
    config.check(spec)
    draw = functools.partial(uniform, batch["key"], seed, epoch)
    mel, ref_db = batch["mel"], batch["ref_db"]
    if config.gain_db:
        mel = _turn_down(mel, draw("gain") * config.gain_db / spec.top_db)
    if config.mixup:
        mel, ref_db = _mix(mel, ref_db, config.mixup, draw)
    if config.roll_s or config.time_mask:
        most = min(round(config.roll_s * spec.sample_rate / spec.hop), spec.frames // 2)
        frames = _roll(spec.frames, most, draw)
        frames = _mask(frames, "time_mask", param=config.time_mask, count=config.masks, draw=draw)
        # Transposed, so that whole columns are gathered: gathering the cells of each row takes four times as long.
        mel = tf.transpose(_gather(tf.transpose(mel, [0, 2, 1, 3]), frames), [0, 2, 1, 3])
    if config.freq_mask:
        bands = tf.repeat(tf.range(spec.n_mels)[None], tf.shape(mel)[0], axis=0)
        mel = _gather(mel, _mask(bands, "freq_mask", param=config.freq_mask, count=config.masks, draw=draw))
    return {**batch, "mel": tf.ensure_shape(mel, [None, *spec.mel_shape, 1]), "ref_db": ref_db}


def uniform(key: tf.Tensor, seed: int, epoch: int | tf.Tensor, name: str) -> tf.Tensor:
    """Draws one number per example, without a stateful generator.

    Args:
        key: `[batch]` string, the examples' keys.
        seed: the run's seed.
        epoch: the epoch; a tensor if one pipeline serves several epochs.
        name: the draw's name; draws with different names are independent.

    Returns:
        `[batch]` float64, uniform in [0, 1).
    """
    digest = hashlib.sha256(repr((int(seed), name)).encode()).digest()
    # SipHash is a pseudo-random function of its input for each secret key; every (seed, name) gets a key.
    secret = [int.from_bytes(digest[place : place + 8], "little", signed=True) for place in (0, 8)]
    drawn = tf.strings.join([tf.strings.as_string(epoch), key], separator="/")
    return tf.cast(tf.strings.to_hash_bucket_strong(drawn, _STEPS, secret), tf.float64) / _STEPS


def mixup_share(alpha: float, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns max(x, 1 - x) for x of Beta(alpha, alpha), made from two uniform draws, exactly and without rejection.

    Bailey's polar method (1994) gives a Student t with 2 alpha degrees of freedom, which is mapped to
    the symmetric Beta (Devroye, 1996, "Random variate generation in one line of code").

    Args:
        alpha: above 0.
        first: `[batch]` float64 in [0, 1).
        second: `[batch]` float64 in [0, 1).

    Returns:
        `[batch]` float64 in [0.5, 1].
    """
    squared = (tf.pow(first, -1.0 / alpha) - 1.0) * tf.cos(2.0 * math.pi * second) ** 2
    return 0.5 + 0.5 / tf.sqrt(1.0 + 1.0 / squared)


def _turn_down(mel: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Subtracts a share `[batch]` of the whole range from each window's codes, which stop at 0."""
    codes = tf.cast(tf.round(share * 255.0), tf.uint8)[:, None, None, None]
    return tf.maximum(mel, codes) - codes


def _mix(mel: tf.Tensor, ref_db: tf.Tensor, alpha: float, draw: _Draw) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each window with another one of the batch; a batch of one stays as it is.

    The level in dB is linear in (mel, ref_db), so mixing both of them mixes the levels.
    """
    rows = tf.shape(mel)[0]
    partner = (tf.range(rows) + 1 + _below(tf.maximum(rows - 1, 1), draw("mixup partner"))) % rows
    # Shares are whole 256ths, so that 16 bits hold the products.
    own = tf.round(256.0 * mixup_share(alpha, draw("mixup first"), draw("mixup second")))
    weight = tf.cast(own, tf.uint16)[:, None, None, None]
    wide = tf.cast(mel, tf.uint16)
    mixed = wide * weight + tf.gather(wide, partner) * (256 - weight) + tf.constant(128, tf.uint16)
    share = tf.cast(own / 256.0, tf.float32)
    return (
        tf.cast(tf.bitwise.right_shift(mixed, tf.constant(8, tf.uint16)), tf.uint8),
        ref_db * share + tf.gather(ref_db, partner) * (1.0 - share),
    )


def _roll(size: int, most: int, draw: _Draw) -> tf.Tensor:
    """Returns the source frames `[batch, size]` of a circular roll by -`most` to `most` frames."""
    shift = _below(2 * most + 1, draw("roll")) - most
    return (tf.range(size) - shift[:, None]) % size


def _mask(source: tf.Tensor, name: str, *, param: int, count: int, draw: _Draw) -> tf.Tensor:
    """Replaces the masked entries of `source` `[batch, size]` by `size`, for which `_gather` returns zeros."""
    size = source.shape[1]
    places = tf.range(size)
    for index in range(count if param else 0):
        widths = _below(param, draw(f"{name} {index} width"))
        starts = _below(size - widths, draw(f"{name} {index} start"))
        inside = (places >= starts[:, None]) & (places < (starts + widths)[:, None])
        source = tf.where(inside, size, source)
    return source


def _gather(mel: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
    """Picks slices of axis 1 per example: `source` is `[batch, size]`, and the index `size` gives zeros."""
    padded = tf.concat([mel, tf.zeros_like(mel[:, :1])], axis=1)
    return tf.gather(padded, source, axis=1, batch_dims=1)


def _below(limit: int | tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Turns uniform draws in [0, 1) into whole numbers in [0, limit), int32."""
    return tf.cast(tf.floor(draw * tf.cast(limit, tf.float64)), tf.int32)
