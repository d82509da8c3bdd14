"""Errors that a person can act on: one line that says what, where, and the fix."""

from __future__ import annotations


class TfpipeError(Exception):
    """The work failed for a reason the user can see and mend. Exit code 1."""

    exit_code = 1


class UsageError(TfpipeError):
    """The command or configuration cannot mean anything sensible. Exit code 2."""

    exit_code = 2


class SpecError(UsageError):
    """A feature spec holds a value that cannot work."""


class SpecMismatch(TfpipeError):
    """Two parts that must share a feature spec do not."""


class AudioError(TfpipeError):
    """A file cannot be used as audio.

    Attributes:
        code: reason code for `skipped.jsonl`, such as `empty` or `undecodable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DatasetError(TfpipeError):
    """A dataset folder is missing, incomplete or damaged."""


class RunError(TfpipeError):
    """A run folder is missing, incomplete, or belongs to other settings."""


class ServingError(TfpipeError):
    """Export, server or client could not do its work."""
