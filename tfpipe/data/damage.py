"""Damaged or changed shards: what can be saved, and errors that name the shard (needs TensorFlow)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tensorflow as tf

from tfpipe.data.manifest import Folder, Manifest, load_manifest
from tfpipe.data.records import read_records
from tfpipe.data.shard_cache import is_copy
from tfpipe.errors import DatasetError, TfpipeError, os_error_message
from tfpipe.files.remote import is_remote, join

# What TensorFlow adds before and after the message of an error.
_TENSORFLOW_WORDS = re.compile(r"\{\{.*?\}\}|\[Op:.*")


def salvage(
    folder: Folder, manifest: Manifest, *, split: str, on_shard: Callable[[], None] = lambda: None
) -> tuple[Manifest, list[str]]:
    """Reads a split once to find what can be used of a damaged dataset: each shard up to its first damage.

    Args:
        folder: dataset folder, local or a URL.
        manifest: the folder's manifest.
        split: the split to read.
        on_shard: called after each shard, for progress.

    Returns:
        The manifest with the numbers of good examples, and a sentence for each shard that lost some.

    Raises:
        TfpipeError: a URL cannot be reached, which says nothing about damage.
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
    """Turns an error of the input pipeline in the block into one that names the shard, the place and the fix.

    Args:
        folder: dataset folder, local or a URL.
        manifest: the manifest that `make_dataset` was given.
        split: the split that `make_dataset` was given.
        fingerprint: the dataset's own fingerprint, if `salvage` changed the manifest.

    Raises:
        DatasetError: a shard is damaged or gone, or the folder now holds another dataset.
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
                    "this copy in the cache is damaged: run the same command again, which copies the shard again"
                    if is_copy(path)
                    else "make the dataset again (`tfpipe preprocess` computes only what is lost), "
                    "or train with --on-corrupt skip"
                )
                raise DatasetError(f"{problem}; {fix}") from error
        if isinstance(error, tf.errors.OpError):
            first_line = (error.message or "").partition("\n")[0]
            words = _TENSORFLOW_WORDS.sub("", first_line).strip(" :") or type(error).__name__
            if words.startswith("DatasetError: "):  # a record is whole, but no example of this dataset
                words = words.removeprefix("DatasetError: ")
                raise DatasetError(f"{words}; make the dataset again with `tfpipe preprocess`") from error
            raise DatasetError(
                f"{folder}: split {split!r} cannot be read ({words}), "
                "but its shards are whole: run the same command again to continue"
            ) from error
        raise


def require_unchanged(folder: Folder, fingerprint: str) -> None:
    """Checks that a folder still holds the dataset with this fingerprint.

    Raises:
        DatasetError: it holds another dataset, or none.
    """
    now = load_manifest(folder).fingerprint
    if now != fingerprint:
        raise DatasetError(
            f"{folder}: the folder now holds another dataset (fingerprint {now}, it was {fingerprint}); "
            "train into another run folder, or bring the old dataset back"
        )


def _good_examples(path: str, wanted: int) -> tuple[int, str]:
    """Returns the number of examples before the first damage, and the damage in a sentence, empty if there is none.

    Raises:
        TfpipeError: a URL cannot be reached, which says nothing about damage.
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
