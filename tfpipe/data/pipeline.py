"""The input pipeline: a dataset folder to batches for the model (needs TensorFlow).

Stages, in order: shard order, interleave, shuffle, skip to the position, cut
into global batches, keep this worker's part, parse, augment, prefetch. The
order is a function of (seed, epoch), under one global seed of TensorFlow
(`train` sets it), so a position (epoch, step) is enough to go on exactly where
a killed run stopped, without reading iterator checkpoints. Augmentation draws
per example (`augment_tf`): of the stages before it only mixup sees anything,
its partners being rows of the same element.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfpipe.data import augmentation_tf, data_service
from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.manifest import Folder, Manifest, Shard, load_manifest
from tfpipe.data.records import read_records
from tfpipe.data.shard_cache import is_copy, use_file_system
from tfpipe.errors import DatasetError, TfpipeError, UsageError, os_error_message
from tfpipe.files.remote import is_remote, join
from tfpipe.spec import FeatureSpec, require_same_spec

# 4 096 examples of 27 KB are 113 MB: enough to mix dozens of tracks, small beside a model.
_SHUFFLE_WINDOW = 4096
_INTERLEAVED_SHARDS = 16
# Records taken from a shard at a time: handing them on one by one costs a tenth of the speed.
_BLOCK = 8
_BATCHES_AHEAD = 4
# Bytes asked for at a time: a request takes longer than what TensorFlow's 256 KiB would need on the way.
_REMOTE_BUFFER = 4 * 2**20
# What TensorFlow puts around an error's own words.
_OP = re.compile(r"\{\{.*?\}\}|\[Op:.*")


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where an epoch's input starts.

    Attributes:
        epoch: decides the order, together with the seed.
        step: global batches of that epoch that were consumed before.
    """

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """This worker's share of each global batch.

    Attributes:
        worker: index of this process.
        workers: number of processes.
        replicas: devices of this process; each gets one element per step.
        whole: leave no example out: a global batch that the replicas cannot share evenly has its last row repeated.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1
    whole: bool = False

    @property
    def total(self) -> int:
        """Replicas of all workers together."""
        return self.workers * self.replicas


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
) -> tf.data.Dataset:
    """Streams one epoch of one split.

    Args:
        folder: dataset folder; at a URL where TensorFlow has a file system for it (`sources`).
        split: `train`, `validation` or `test`.
        batch_size: examples in a global batch, over all workers and replicas.
        seed: shuffles as a function of (seed, epoch); None keeps key order.
        position: where to start.
        part: which part of every global batch this worker reads.
        expected_spec: refuse a dataset of another spec.
        manifest: the folder's manifest when the caller has it, or what `salvage` left of it.
        augment: what is done to the windows, for training alone: needs a seed.
        service: addresses of data service processes, which change where the work is done and nothing else.
        shard_by: `record`: each worker reads all, and keeps its rows of the global batches, which are the
            same for any number of workers. `file`: each worker reads, and shuffles, a share of its own.

    Returns:
        A dataset of known cardinality, with `mel` `[batch, n_mels, frames, 1]`
        uint8 (cast on the device by `features_tf.to_mel`), `ref_db` `[batch]`
        float32, `label` `[batch]` int64, `key` `[batch]` string. With several
        replicas an element is one replica's part, and a global batch leaves out
        what they cannot share evenly: with a batch size that is a multiple of
        their number, at most replicas - 1 examples of an epoch's last batch. With
        `Part.whole` it repeats one instead.

    Raises:
        DatasetError: no complete dataset, or no examples in the split.
        SpecMismatch: the dataset has another spec than expected.
        TfpipeError: a URL or a data service that cannot be reached from here.
        UsageError: a batch smaller than the number of replicas, or one that they
            cannot share by file, or a whole epoch by file, or augmentation without
            a seed or of settings that do not fit the spec.
    """
    manifest = manifest or load_manifest(folder)
    if expected_spec is not None:
        require_same_spec(expected_spec, manifest.spec, expected_from="the model", actual_from=str(folder))
    position, part = position or Position(), part or Part()
    if batch_size < part.total:
        raise UsageError(f"batch size {batch_size} is smaller than the {part.total} replicas; use a larger batch")
    steps = steps_per_epoch(manifest, split=split, batch_size=batch_size, replicas=1 if part.whole else part.total)
    if steps == 0:
        raise DatasetError(f"{folder}: no examples in split {split!r}; use a split that has some")
    shares = [_Share(shard, 0, shard.examples) for shard in manifest.split_shards(split)]
    if shard_by == "file" and part.workers > 1:
        if part.whole:
            raise UsageError("workers that share by file leave examples out; for whole epochs share by record")
        if batch_size % part.total:
            raise UsageError(f"batch size {batch_size}: {part.total} replicas cannot share it by file; use a multiple")
        shares = _own_shares(shares, part, seed=seed, epoch=position.epoch)
        batch_size, part = batch_size // part.workers, Part(replicas=part.replicas)
    records = _records(folder, shares, seed=seed, epoch=position.epoch)
    # Cutting batches and handing them on in threads of their own: a fifth faster on two cores.
    batches = records.skip(position.step * batch_size).batch(
        batch_size, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    batches = _own_part(batches.prefetch(_BATCHES_AHEAD), part)
    finish = functools.partial(parse, spec=manifest.spec)
    if augment is not None and augment.on:
        if seed is None:
            raise UsageError(f"augmentation ({', '.join(augment.on)}) is for training: give make_dataset a seed")
        augment.check(manifest.spec)
        finish = functools.partial(
            _parse_and_augment, spec=manifest.spec, augment=augment, seed=seed, epoch=position.epoch
        )
    left = max(0, steps - position.step) * part.replicas
    if service:
        dataset = data_service.spread(batches, finish, service=service, total=left)
    else:
        dataset = batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(left)).prefetch(_BATCHES_AHEAD)
    return dataset.with_options(_untuned())


def steps_per_epoch(manifest: Manifest, *, split: str, batch_size: int, replicas: int = 1) -> int:
    """Returns the global batches in one epoch of `make_dataset`."""
    full, rest = divmod(manifest.examples(split), batch_size)
    return full + (1 if rest >= replicas else 0)


def salvage(
    folder: Folder, manifest: Manifest, *, split: str, on_shard: Callable[[], None] = lambda: None
) -> tuple[Manifest, list[str]]:
    """Reads a split once for what can be trained on of a damaged dataset: every shard up to its first damage.

    Returns:
        The manifest with the numbers of good examples, and a sentence for each shard that lost some.

    Raises:
        TfpipeError: a URL is out of reach, which is no damage.
    """
    shards, lost = [], []
    for shard in manifest.shards:
        good, problem = shard.examples, ""
        if shard.split == split:
            good, problem = _good_examples(join(folder, shard.name), shard.examples)
            on_shard()
        if problem:
            lost.append(f"{problem}: {shard.examples - good} of its {shard.examples} examples are left out")
        shards.append(dataclasses.replace(shard, examples=good))
    return dataclasses.replace(manifest, shards=tuple(shards)), lost


@contextmanager
def translate_input_errors(folder: Folder, manifest: Manifest, *, split: str, fingerprint: str = "") -> Iterator[None]:
    """Turns an error of the input pipeline in the block into one that says which shard, where, and the fix.

    Args:
        folder: dataset folder.
        manifest: what was handed to `make_dataset`.
        split: likewise.
        fingerprint: the dataset's own, where `salvage` changed the manifest.

    Raises:
        DatasetError: a shard is damaged, gone, or the dataset is another one by now.
    """
    try:
        yield
    except (tf.errors.OpError, StopIteration) as error:
        require_unchanged(folder, fingerprint or manifest.fingerprint)
        for shard in manifest.split_shards(split):
            path = join(folder, shard.name)
            good, problem = _good_examples(path, shard.examples)
            if good < shard.examples:
                fix = (
                    "the copy is damaged: run the same command again, which makes it anew"
                    if is_copy(path)
                    else "make the dataset again (`tfpipe preprocess` computes only what is lost), "
                    "or train with --on-corrupt skip"
                )
                raise DatasetError(f"{problem}; {fix}") from error
        if isinstance(error, tf.errors.OpError):
            words = _OP.sub("", error.message.splitlines()[0]).strip(" :") if error.message else ""
            raise DatasetError(
                f"{folder}: split {split!r} cannot be read ({words or type(error).__name__}), "
                "but its shards are whole: run the same command to go on"
            ) from error
        raise


def require_unchanged(folder: Folder, fingerprint: str) -> None:
    """Notices that a dataset was made anew, or removed, under a reader.

    Raises:
        DatasetError: it was.
    """
    now = load_manifest(folder).fingerprint
    if now != fingerprint:
        raise DatasetError(
            f"{folder}: is another dataset by now ({now} instead of {fingerprint}); "
            "train into another run folder, or bring the old one back"
        )


def _good_examples(path: str, wanted: int) -> tuple[int, str]:
    """Returns how many examples of a shard come before any damage, and what the damage is, or nothing.

    Raises:
        TfpipeError: a URL is out of reach, which is no damage.
    """
    good = 0
    try:
        for _ in read_records(path):
            good += 1
    except DatasetError as error:
        return min(good, wanted), str(error)
    except FileNotFoundError:
        return 0, f"{path}: the shard is gone"
    except OSError as error:
        if is_remote(path):
            raise TfpipeError(
                f"{os_error_message(error, path)}; no damage is known: run the same command again"
            ) from error
        return min(good, wanted), os_error_message(error, path)
    return min(good, wanted), "" if good >= wanted else f"{path}: ends after {good} examples"


def parse(serialised: tf.Tensor, spec: FeatureSpec) -> dict[str, tf.Tensor]:
    """Parses a batch of serialised examples `[batch]`; see `make_dataset` for the result."""
    features = {
        "mel": tf.io.FixedLenFeature([], tf.string),
        "ref_db": tf.io.FixedLenFeature([], tf.float32),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "key": tf.io.FixedLenFeature([], tf.string),
    }
    batch = tf.io.parse_example(serialised, features)
    codes = tf.io.decode_raw(batch.pop("mel"), tf.uint8)
    return {"mel": tf.reshape(codes, [-1, *spec.mel_shape, 1]), **batch}


def _parse_and_augment(
    serialised: tf.Tensor, *, spec: FeatureSpec, augment: AugmentConfig, seed: int, epoch: int
) -> dict[str, tf.Tensor]:
    return augmentation_tf.apply(parse(serialised, spec), config=augment, spec=spec, seed=seed, epoch=epoch)


class _Share(NamedTuple):
    """Records of a shard: those after the first `skip`, as many as `take`."""

    shard: Shard
    skip: int
    take: int


def _own_shares(shares: Sequence[_Share], part: Part, *, seed: int | None, epoch: int) -> list[_Share]:
    """Cuts an epoch into equal runs of records, one per worker: whole shards but for the ends, others each epoch."""
    if seed is not None:
        shares = sorted(shares, key=lambda share: _seed(seed, epoch, share.shard.name))
    each = sum(share.take for share in shares) // part.total * part.replicas
    first, last = part.worker * each, (part.worker + 1) * each
    own, place = [], 0
    for share in shares:
        low, high = max(first, place), min(last, place + share.take)
        if low < high:
            own.append(_Share(share.shard, low - place, high - low))
        place += share.take
    return own


def _records(folder: Folder, shares: Sequence[_Share], *, seed: int | None, epoch: int) -> tf.data.Dataset:
    """Serialised examples: in the shares' order, or shuffled as (seed, epoch) says."""
    shares = [share for share in shares if share.take]
    if not shares:
        return tf.data.Dataset.from_tensor_slices(tf.constant([], tf.string))
    use_file_system(folder, shard=shares[0].shard.name)
    read = functools.partial(_read_share, buffer=_REMOTE_BUFFER if is_remote(folder) else None)
    paths = [join(folder, share.shard.name) for share in shares]
    places = np.array([(share.skip, share.take) for share in shares], np.int64)
    files = tf.data.Dataset.from_tensor_slices((paths, places))
    if seed is None:
        return files.flat_map(read)
    files = files.shuffle(len(paths), seed=_seed(seed, epoch, "shards"), reshuffle_each_iteration=False)
    records = files.interleave(
        lambda path, places: read(path, places).batch(_BLOCK),
        cycle_length=min(_INTERLEAVED_SHARDS, len(paths)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    window = min(_SHUFFLE_WINDOW, sum(share.take for share in shares))
    return records.unbatch().shuffle(window, seed=_seed(seed, epoch, "examples"), reshuffle_each_iteration=False)


def _read_share(path: tf.Tensor, places: tf.Tensor, *, buffer: int | None) -> tf.data.Dataset:
    """A share's records; no more than are good, of a shard whose end is damaged."""
    return tf.data.TFRecordDataset(path, buffer_size=buffer).skip(places[0]).take(places[1])


def _untuned() -> tf.data.Options:
    """As many parallel calls as there are cores, from the start.

    The thread that tunes them sleeps for up to a minute, and an epoch that ends
    while it is at work waits until it has slept.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _seed(*parts: object) -> int:
    """A seed that is unrelated for any two different tuples, on every version of TensorFlow."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def _own_part(batches: tf.data.Dataset, part: Part) -> tf.data.Dataset:
    """Keeps this worker's rows of each global batch, one element per replica, before parsing."""
    if part.total == 1:
        return batches

    def rows(batch: tf.Tensor) -> tf.data.Dataset:
        if part.whole:
            batch = tf.concat([batch, tf.repeat(batch[-1:], -tf.shape(batch)[0] % part.total, axis=0)], 0)
        each = tf.shape(batch)[0] // part.total
        first = part.worker * part.replicas * each
        own = tf.reshape(batch[first : first + part.replicas * each], [part.replicas, each])
        # A remainder smaller than the number of replicas gives nobody anything.
        return tf.data.Dataset.from_tensor_slices(own).filter(lambda keys: tf.shape(keys)[0] > 0)

    return batches.flat_map(rows)
