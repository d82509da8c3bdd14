"""Where the input pipeline reads a dataset that is not here: TensorFlow's file systems, or a cache.

TensorFlow is loaded only by `use_file_system` and `use_tensorflow_io`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tfpipe import lanes
from tfpipe.data.manifest import MANIFEST, Folder, Shard, load_manifest
from tfpipe.errors import DatasetError, TfpipeError, translate_os_errors
from tfpipe.files import http
from tfpipe.files.remote import is_remote, join, open_read
from tfpipe.files.storage import atomic_write, folder_lock, remove_leftovers, sha256_file, write_json
from tfpipe.process import exit_status
from tfpipe.process.progress import Progress

_COPIED_AT_A_TIME = 4
_BLOCK = 2**20
_COPY = re.compile(r"\.\./[0-9a-f]{64}\.tfrecord")
# The variables of tensorflow-io's s3://, and those by which boto3, and so all else here, knows the same.
_NAMES = (
    ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
    ("S3_ENDPOINT", "AWS_ENDPOINT_URL"),
    ("AWS_REGION", "AWS_DEFAULT_REGION"),
)


def use_file_system(folder: Folder, *, shard: str) -> None:
    """Makes TensorFlow able to read a dataset's shards where they are.

    Args:
        folder: dataset folder, local or a URL.
        shard: name of one of its shards, to see what a web server can do.

    Raises:
        TfpipeError: this TensorFlow, or the web server, cannot; says what can.
    """
    if not is_remote(folder):
        return
    use_tensorflow_io()
    import tensorflow as tf

    url = str(folder)
    scheme = url.partition("://")[0]
    if scheme not in tf.io.gfile.get_registered_schemes():
        raise TfpipeError(
            f"{url}: TensorFlow {tf.__version__} as installed here does not read {scheme}://; use --cache DIR, or the "
            f"default lane (constraints/default.txt: TensorFlow {lanes.LANES['default']['tensorflow']} with "
            f"tensorflow-io {lanes.LANES['default']['tensorflow-io']})"
        )
    if scheme == "s3":
        exit_status.at_once()
    first = join(url, shard)
    with translate_os_errors(first):
        if http.is_web(url) and not http.gives_ranges(first):
            raise TfpipeError(
                f"{url}: this web server sends whole files only, TensorFlow needs parts of them (Range requests); "
                "use --cache DIR, or another server"
            )


def use_tensorflow_io() -> None:
    """Adds s3:// and http:// to TensorFlow's file systems where tensorflow-io has them for this TensorFlow."""
    for name, boto3_name in _NAMES:
        if value := os.environ.get(boto3_name):
            os.environ.setdefault(name, value)
    if lanes.tensorflow_io_loads(lanes.installed_version("tensorflow")) and lanes.installed_version("tensorflow-io"):
        import tensorflow_io  # noqa: F401  registers the file systems


def cached(folder: Folder, cache: Path, *, splits: Iterable[str]) -> Path:
    """Copies a dataset's shards into a cache, those that are not there yet, and returns a local dataset folder.

    A shard is named by its checksum there, so that datasets share what they have
    in common. Copies are checked before they are used, and made anew where they
    are damaged; processes that want the same cache wait for each other.

    Args:
        folder: dataset folder, local or a URL.
        cache: local folder, made if missing.
        splits: the splits that are needed.

    Returns:
        A folder in the cache with the dataset's manifest and links to the copies.

    Raises:
        DatasetError: no dataset, or one whose shards are not those of its manifest.
        TfpipeError: the dataset is out of reach, or the disk is full.
    """
    manifest = load_manifest(folder)
    wanted = [shard for split in splits for shard in manifest.split_shards(split)]
    place = cache / manifest.fingerprint
    waiting = partial(print, f"cache: waiting for another process that fills {cache}", file=sys.stderr, flush=True)
    with (
        translate_os_errors(cache),
        folder_lock(cache, what="tfpipe process", on_wait=waiting),
        ThreadPoolExecutor(_COPIED_AT_A_TIME) as pool,
    ):
        remove_leftovers(cache)
        copies = [cache / f"{shard.sha256}.tfrecord" for shard in wanted]
        whole = list(pool.map(_is_whole, copies, wanted))
        missing = [shard for shard, is_whole in zip(wanted, whole, strict=True) if not is_whole]
        if missing:
            with Progress("cache", total=len(missing), unit="shard") as bar:
                for _ in pool.map(partial(_copy, folder, cache), missing):
                    bar.update()
        place.mkdir(exist_ok=True)
        for shard, copy in zip(wanted, copies, strict=True):
            link = place / shard.name
            if not link.is_symlink():
                link.symlink_to(Path("..") / copy.name)
        write_json(place / MANIFEST, manifest.to_dict())
    return place


def is_copy(path: str) -> bool:
    """Tells whether a shard is a link to what `cached` has copied."""
    return os.path.islink(path) and _COPY.fullmatch(os.readlink(path)) is not None


def _is_whole(copy: Path, shard: Shard) -> bool:
    return copy.is_file() and copy.stat().st_size == shard.bytes and sha256_file(copy) == shard.sha256


def _copy(folder: Folder, cache: Path, shard: Shard) -> None:
    """Copies a shard to its name in the cache, which only whole copies have."""
    source = join(folder, shard.name)
    sha256 = hashlib.sha256()
    with atomic_write(cache / f"{shard.sha256}.tfrecord") as out:
        with open_read(source) as file:
            while block := file.read(_BLOCK):
                sha256.update(block)
                out.write(block)
        if sha256.hexdigest() != shard.sha256:
            raise DatasetError(
                f"{source}: content differs from the manifest's checksum; the shard is damaged or another by now: "
                "put the right one there, or read without --cache and with --on-corrupt skip"
            )
