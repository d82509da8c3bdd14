"""Files that are whole or absent: atomic writes, folder locks, clear disk errors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from tfpipe.errors import TfpipeError
from tfpipe.files.remote import open_read


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    Raises:
        TfpipeError: disk full, no permission or another OS error, naming the path.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Reads a JSON file, local or at a URL.

    Raises:
        TfpipeError: the file is missing, unreadable or no JSON.
    """
    with explain_os_errors(path), open_read(path) as file:
        data = file.read()
    try:
        return json.loads(data)
    except ValueError as error:
        raise TfpipeError(f"{path}: not valid JSON ({error}); the file is damaged") from error


@contextlib.contextmanager
def explain_os_errors(path: Path | str) -> Iterator[None]:
    """Turns an `OSError` in the block into one line that names the path and the fix."""
    try:
        yield
    except OSError as error:
        raise TfpipeError(explain(error, path)) from error


def explain(error: OSError, path: Path | str) -> str:
    """Returns one line for an OS error: what, where, the fix."""
    where = error.filename or path
    fixes = {
        errno.ENOSPC: "disk full; free some space and run the same command again",
        errno.EDQUOT: "disk quota reached; free some space and run the same command again",
        errno.EACCES: "permission denied; choose a folder you may write to, or change its permissions",
        errno.EPERM: "operation not permitted; choose another folder or change its permissions",
        errno.EROFS: "read-only file system; choose another folder",
        errno.ENOENT: "no such file or folder; check the path",
        errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
        errno.EISDIR: "is a folder, a file was expected",
        errno.EEXIST: "a file with that name is in the way; choose another path",
        errno.ENAMETOOLONG: "name too long for this file system; choose a shorter one",
        errno.EMFILE: "too many open files; raise the limit with `ulimit -n`",
    }
    return f"{where}: {fixes.get(error.errno or 0, error.strerror or str(error))}"


@contextlib.contextmanager
def folder_lock(folder: Path, *, what: str) -> Iterator[None]:
    """Holds a folder for one process; the kernel releases it when the process dies.

    Args:
        folder: made if missing; a file `.lock` in it is locked.
        what: what works there, for the message, such as `tfpipe run`.

    Raises:
        TfpipeError: another process holds the folder.
    """
    with ExitStack() as stack:
        with explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / ".lock", "a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise TfpipeError(
                f"{folder}: another {what} (process {holder}) is working here; wait for it or use another folder"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def replace_folder(source: Path, target: Path) -> None:
    """Moves `source` to `target`; a folder there is renamed aside first and removed once the new one stands."""
    with explain_os_errors(target):
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        if target.exists():
            os.rename(target, old)
        os.rename(source, target)
        shutil.rmtree(old, ignore_errors=True)


def digest(value: Any) -> str:
    """Returns 16 hex digits over the canonical JSON of `value`."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def sha256_file(path: Path | str) -> str:
    """Returns the SHA-256 of a file's content as 64 hex digits; the file may be at a URL."""
    with open_read(path) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
