"""Writes, moves and removes output files, local or at URLs, through Beam's FileSystems.

Every failure is an `OSError` or a `TfpipeError` that names the path.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import BinaryIO, cast

from tfpipe.data.manifest import SHARD_NAME
from tfpipe.errors import TfpipeError, translate_os_errors
from tfpipe.files import remote, storage
from tfpipe.files.remote import exists, is_remote

# A job renews its lock on a remote folder this often, s.
_BEAT_S = 15.0
# A lock that is older than this counts as left by a job that was killed, s.
_LAPSE_S = 60.0


def read(path: str) -> bytes:
    """Reads a small file."""
    with translate_os_errors(path), remote.open_read(path) as file:
        return file.read()


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """Opens a file for writing; it gets its name only when the block ends without an error."""
    if not is_remote(path):
        with storage.atomic_write(path) as local:
            yield local
        return
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    with translate_os_errors(path):
        with remote.translate_store_errors(path):
            system = remote.file_system(path)
            raw = system.create(temporary, compression_type="uncompressed")
        try:
            with remote.Stream(path, raw) as file:
                yield cast(BinaryIO, file)
            move(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                system.delete([temporary])
            raise


def write(path: str, data: bytes) -> None:
    """Writes a small file whole or not at all."""
    if not is_remote(path):
        storage.write_bytes(path, data)
        return
    # A store shows an object only when all of it has arrived.
    with translate_os_errors(path), remote.translate_store_errors(path):
        raw = remote.file_system(path).create(path, compression_type="uncompressed")
        raw.write(data)
        raw.close()


def move(source: str, target: str) -> None:
    """Renames a file; an object store copies it and removes the original."""
    with translate_os_errors(target), remote.translate_store_errors(target):
        remote.file_system(target).rename([source], [target])


def remove(path: str) -> None:
    """Removes a file, if it exists."""
    with translate_os_errors(path):
        if exists(path):
            with remote.translate_store_errors(path):
                remote.file_system(path).delete([path])


def remove_folder(path: str) -> None:
    """Removes a folder and everything in it, if it exists."""
    with translate_os_errors(path), remote.translate_store_errors(path):
        if is_remote(path):
            remote.file_system(path).delete([f"{path}/"])
        elif os.path.isdir(path):
            remote.file_system(path).delete([path])


def remove_unfinished(*folders: str) -> None:
    """Removes half-written files that a killed job left in remote folders."""
    for folder in folders:
        for name in remote.sizes(folder):
            if ".tmp-" in name:
                remove(remote.join(folder, name))


def folders(parent: str, start: str) -> list[str]:
    """Lists the folders at a URL, right below `parent`, whose names begin with `start`; they hold files."""
    found = (path for path, _ in remote.match(f"{glob.escape(parent)}/{start}*/*"))
    return sorted({path[: path.index("/", len(parent) + 1)] for path in found})


def shard_names(folder: str) -> list[str]:
    """Lists the files of a dataset folder that have a shard's name."""
    return sorted(name for name in remote.sizes(folder) if SHARD_NAME.fullmatch(name))


@contextlib.contextmanager
def held(folder: str, *, what: str) -> Iterator[None]:
    """Locks a remote folder for one job, as `tfpipe.files.storage.folder_lock` locks a local one.

    Object stores have no locks. Each job writes a lock file of its own and then
    looks for others. S3 and Google Cloud Storage list every object that was
    written before, so of two jobs at least the later one sees the other. A job
    writes its lock file again every few seconds, and the store's clock tells
    which lock files are old.

    Args:
        folder: URL of the folder.
        what: what the lock is for, such as `preprocessing job`; used in the message.

    Raises:
        TfpipeError: another job holds the folder, or the folder cannot be written.
    """
    lock = remote.join(folder, f".lock-{uuid.uuid4().hex}")
    content = json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_S):
            with contextlib.suppress(TfpipeError, OSError):
                write(lock, content)

    write(lock, content)
    try:
        _require_alone(folder, lock, what=what)
        beats = threading.Thread(target=beat, daemon=True)
        beats.start()
        try:
            yield
        finally:
            done.set()
            beats.join(_BEAT_S)
    finally:
        remove(lock)


def _require_alone(folder: str, lock: str, *, what: str) -> None:
    """Raises a TfpipeError if another job is working in the folder; removes the lock files of killed jobs."""
    _, now = remote.stamp(lock)
    for other in (remote.join(folder, name) for name in remote.sizes(folder) if name.startswith(".lock-")):
        if other == lock or not exists(other):
            continue
        silent = (now - remote.stamp(other)[1]) / 1e9
        if silent < _LAPSE_S:
            holder = json.loads(read(other))
            raise TfpipeError(
                f"{folder}: another {what} (process {holder['process']} on {holder['host']}) is working here; wait for "
                f"it or use another folder; if it was killed, run this again in {_LAPSE_S - silent:.0f} s"
            )
        remove(other)
