"""A local cache for the shards of a dataset that is elsewhere. Does not load TensorFlow."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tfpipe.data.manifest import MANIFEST, Folder, Shard, load_manifest
from tfpipe.errors import DatasetError, translate_os_errors
from tfpipe.files.remote import join, open_read
from tfpipe.files.storage import atomic_write, folder_lock, remove_leftovers, sha256_file, write_json
from tfpipe.process.progress import Progress

_COPIES_AT_A_TIME = 4
_BLOCK = 2**20
_COPY = re.compile(r"\.\./[0-9a-f]{64}\.tfrecord")


def cached(folder: Folder, cache: str | Path, *, splits: Iterable[str]) -> Path:
    """Copies those of a dataset's shards that the cache lacks, and returns a local dataset folder.

    A shard's name in the cache is its checksum, so datasets with a shard in common
    share the copy. Each copy is checked before it is used, and a damaged one is
    copied again. Processes that use the same cache wait for each other.

    Args:
        folder: dataset folder, local or a URL.
        cache: local folder, made if missing.
        splits: the splits that are needed.

    Returns:
        A folder in the cache with the dataset's manifest and links to the copies.

    Raises:
        DatasetError: there is no dataset, or a shard differs from the manifest.
        TfpipeError: the dataset cannot be reached, or the disk is full.
    """
    cache = Path(cache)
    manifest = load_manifest(folder)
    wanted = [shard for split in splits for shard in manifest.split_shards(split)]
    local = cache / manifest.fingerprint
    say_wait = partial(print, f"cache: waiting for another process that fills {cache}", file=sys.stderr, flush=True)
    with (
        translate_os_errors(cache),
        folder_lock(cache, what="tfpipe process", on_wait=say_wait),
        ThreadPoolExecutor(_COPIES_AT_A_TIME) as pool,
    ):
        remove_leftovers(cache)
        copies = [cache / f"{shard.sha256}.tfrecord" for shard in wanted]
        whole = list(pool.map(_is_whole, copies, wanted))
        missing = [shard for shard, is_whole in zip(wanted, whole, strict=True) if not is_whole]
        if missing:
            with Progress("cache", total=len(missing), unit="shard") as bar:
                for _ in pool.map(partial(_copy, folder, cache), missing):
                    bar.update()
        local.mkdir(exist_ok=True)
        for shard, copy in zip(wanted, copies, strict=True):
            link = local / shard.name
            if not link.is_symlink():
                link.symlink_to(Path("..") / copy.name)
        write_json(local / MANIFEST, manifest.to_dict())
    return local


def is_copy(path: str) -> bool:
    """Tells whether a shard is a link to a copy that `cached` made."""
    return os.path.islink(path) and _COPY.fullmatch(os.readlink(path)) is not None


def _is_whole(copy: Path, shard: Shard) -> bool:
    return copy.is_file() and copy.stat().st_size == shard.bytes and sha256_file(copy) == shard.sha256


def _copy(folder: Folder, cache: Path, shard: Shard) -> None:
    """Copies a shard into the cache; the copy gets its name once its checksum is right."""
    source = join(folder, shard.name)
    sha256 = hashlib.sha256()
    with atomic_write(cache / f"{shard.sha256}.tfrecord") as out:
        with open_read(source) as file:
            while block := file.read(_BLOCK):
                sha256.update(block)
                out.write(block)
        if sha256.hexdigest() != shard.sha256:
            raise DatasetError(
                f"{source}: content differs from the manifest's checksum, so the shard is damaged or was replaced; "
                "put the right one there, or read without --cache and with --on-corrupt skip"
            )
