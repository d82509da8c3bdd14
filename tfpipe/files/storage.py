"""Local files that are either whole or absent, folder locks, and checksums.

A reader never sees a half-written file: a file is written under a temporary
name, flushed to the disk and then renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from tfpipe.errors import TfpipeError, translate_os_errors
from tfpipe.files.remote import open_read

# The state file of `tfpipe run`; a folder with it is a work folder.
WORK_STATE = "stages.json"
# The file in a folder that `folder_lock` locks.
LOCK = ".lock"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file that gets its name only when the block ends without an error.

    Until then the data are in `.NAME.tmp-XXXXXXXX` in the same folder. A reader of `path` sees the
    old content or the new, never a part. If the block raises, the old content stays.

    Args:
        path: local file to write; its folder is made if it is missing.

    Yields:
        A binary file that is open for writing and can seek. Libraries that want a file descriptor
        may use its `fileno()`.

    Raises:
        TfpipeError: the block or this function raised an `OSError`, such as a full disk.
    """
    path = Path(path)
    shown = os.fsdecode(os.fsencode(path.name)[:200])  # a file name may have 255 bytes
    temporary = path.with_name(f".{shown}.tmp-{secrets.token_hex(4)}")
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if str(error.filename) == str(temporary):
                error.filename = str(path)  # the user knows this name
            raise
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Removes the temporary files of `atomic_write` that killed processes left in a folder.

    Call it only while holding the folder's lock: a file that another process is writing would go too.
    """
    for path in Path(folder).glob(".*.tmp-*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a folder that gets its name only when the block ends without an error.

    Until then it is `.NAME.tmp-PROCESS` beside `path`. An older folder at `path` is replaced at the end; if the block
    raises, it stays.

    Args:
        path: local folder to make; the folder that it is in is made if it is missing.

    Yields:
        The temporary folder, empty.

    Raises:
        TfpipeError: the block or this function raised an `OSError`, such as a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with translate_os_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file with `atomic_write`.

    Raises:
        TfpipeError: disk full, no permission or another OS error; the message names the path.
    """
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, with `atomic_write`.

    Raises:
        TfpipeError: as `write_bytes`.
    """
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file, local or at a URL.

    Raises:
        TfpipeError: the file is missing, cannot be read, or is not JSON.
    """
    with translate_os_errors(path), open_read(path) as file:
        data = file.read()
    try:
        return json.loads(data)
    except ValueError as error:
        raise TfpipeError(f"{path}: not valid JSON ({error}); the file is damaged") from error


@contextlib.contextmanager
def folder_lock(
    folder: str | os.PathLike[str], *, what: str, on_wait: Callable[[], object] | None = None
) -> Iterator[None]:
    """Locks a folder for this process; the kernel releases the lock when the process dies.

    Args:
        folder: local folder, made if missing. The lock is on a file `.lock` in it, which holds
            the process id and stays.
        what: which program works there, such as `tfpipe run`; for the error message.
        on_wait: called once if another process holds the lock, before waiting for it. Without it, a
            held lock is an error.

    Raises:
        TfpipeError: another process holds the lock, or the lock file cannot be written.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        with translate_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / LOCK, "a+"))
            locked = _try_lock(file)
        if not locked:
            if on_wait is None:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise TfpipeError(
                    f"{folder}: another {what} (process {holder}) is working here; wait for it or use another folder"
                )
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_locked(folder: str | os.PathLike[str]) -> bool:
    """Tells whether a living process holds the lock of a folder.

    False if the folder has no lock file; True if the lock cannot be tested.
    """
    try:
        with open(Path(folder) / LOCK, "r+") as file:
            return not _try_lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def replace_folder(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Moves the folder `source` to `target`.

    A folder at `target` is first renamed, and removed once the new one is in its place.

    Raises:
        TfpipeError: an OS error, naming the path.
    """
    target = Path(target)
    with translate_os_errors(target):
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        if target.exists():
            os.rename(target, old)
        os.rename(source, target)
        shutil.rmtree(old, ignore_errors=True)


def digest(value: Any) -> str:
    """Returns 16 hex digits of the SHA-256 of a JSON value; the order of its keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content as 64 hex digits; the file may be at a URL.

    Raises:
        OSError: it is missing or cannot be read.
    """
    with open_read(path) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def _try_lock(file: TextIO) -> bool:
    """Locks an open file if no other process holds it; returns whether it did."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
