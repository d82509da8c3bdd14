"""Output files, local or remote, through Beam's FileSystems.

Every failure is an `OSError` or a `TfpipeError` that names the path.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tfpipe.storage import explain_os_errors

_SHARD_NAME = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}\.tfrecord")


def is_remote(path: str) -> bool:
    """Tells whether a path is a URL such as `gs://bucket/data`."""
    return "://" in path


def exists(path: str) -> bool:
    """Tells whether a file is there."""
    return FileSystems.exists(path)


def read(path: str) -> bytes:
    """Reads a small file."""
    with _explained(path), FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return cast(bytes, file.read())


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """Opens a file for writing; it takes its name only when the block ends well."""
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    with _explained(path):
        file = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
        try:
            with file:
                yield file
                if not is_remote(path):
                    file.flush()
                    os.fsync(file.fileno())
            FileSystems.rename([temporary], [path])
        except BaseException:
            with contextlib.suppress(OSError):
                FileSystems.delete([temporary])
            raise


def write(path: str, data: bytes) -> None:
    """Writes a small file whole or not at all."""
    with create(path) as file:
        file.write(data)


def move(source: str, target: str) -> None:
    """Renames a file."""
    with _explained(target):
        FileSystems.rename([source], [target])


def remove(path: str) -> None:
    """Removes a file, or a folder with all in it; nothing happens when it is missing."""
    if exists(path):
        with _explained(path):
            FileSystems.delete([path])


def shard_names(folder: str) -> list[str]:
    """Lists the files of a dataset folder that have a shard's name."""
    if is_remote(folder):
        found = FileSystems.match([FileSystems.join(folder, "*.tfrecord")])[0].metadata_list
        names = [entry.path.rpartition("/")[2] for entry in found]
    else:
        names = [path.name for path in Path(folder).iterdir()] if os.path.isdir(folder) else []
    return sorted(name for name in names if _SHARD_NAME.fullmatch(name))


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Digs the operating system's error out of Beam's wrappings and puts it in one line."""
    with explain_os_errors(path):
        try:
            yield
        except BeamIOError as error:
            causes = list((error.exception_details or {}).values())
            cause = causes[0] if causes and isinstance(causes[0], Exception) else error
            inner = cause.args[0] if cause.args and isinstance(cause.args[0], OSError) else cause
            raise inner if isinstance(inner, OSError) else OSError(None, str(inner), path) from error
