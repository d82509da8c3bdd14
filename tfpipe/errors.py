"""Errors that a person can act on: each message is one line that says what is wrong, where, and how to fix it.

The command line prints the message and exits with the error's `exit_code`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

_OS_FIXES = {
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


class TfpipeError(Exception):
    """Raised when the work fails for a reason that the user can see and fix. Exit code 1.

    All other errors of this module derive from it.

    Attributes:
        exit_code: exit code of the command.
        details: what `--json` shows beside the message: what the command found out before it failed.
    """

    exit_code = 1
    details: Mapping[str, Any] = MappingProxyType({})


class UsageError(TfpipeError):
    """Raised when an argument, an option or a configuration is wrong, before any work is done. Exit code 2."""

    exit_code = 2


class SpecError(UsageError):
    """Raised when a feature spec is made with a value that cannot work. Exit code 2."""


class SpecMismatch(TfpipeError):
    """Raised when a dataset, a run and a model must share one feature spec but do not. Exit code 1."""


class AudioError(TfpipeError):
    """Raised when a file cannot be used as audio. Exit code 1.

    The preprocessing job does not stop at this error: it skips the file and records the reason.

    Attributes:
        code: reason code for `skipped.jsonl`, such as `empty` or `undecodable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DatasetError(TfpipeError):
    """Raised when a dataset folder is missing, incomplete or damaged. Exit code 1."""


class RunError(TfpipeError):
    """Raised when a run folder is missing or incomplete, or was made with other settings. Exit code 1."""


class ServingError(TfpipeError):
    """Raised when an export, a model server or a client fails. Exit code 1."""


@contextlib.contextmanager
def translate_os_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an `OSError` in the block into a `TfpipeError` with the message of `os_error_message`."""
    try:
        yield
    except OSError as error:
        raise TfpipeError(os_error_message(error, path)) from error


def os_error_message(error: OSError, path: str | os.PathLike[str]) -> str:
    """Returns one line for an operating system error: the file, what is wrong, the fix.

    Args:
        error: the error.
        path: the file that is named if the error itself names none.
    """
    what = _OS_FIXES.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename or os.fspath(path)}: {what}"
