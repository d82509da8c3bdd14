"""The public errors and their exit codes, and messages for errors of the operating system."""

import errno

import pytest

from tfpipe import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((errors.UsageError("x"), 2), (errors.SpecError("x"), 2), (errors.SpecMismatch("x"), 1)),
        *((errors.AudioError("empty", "x"), 1), (errors.DatasetError("x"), 1), (errors.RunError("x"), 1)),
        (errors.ServingError("x"), 1),
    ],
)
def test_each_error_has_an_exit_code_and_its_message(error, code):
    assert isinstance(error, errors.TfpipeError)
    assert (error.exit_code, str(error)) == (code, "x")


def test_an_error_of_the_system_says_what_where_and_the_fix(tmp_path):
    expected = pytest.raises(errors.TfpipeError, match="/gone: no such file or folder; check the path")
    with expected, errors.translate_os_errors("somewhere"):
        (tmp_path / "gone").read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    assert errors.os_error_message(full, tmp_path).startswith(f"{tmp_path}: disk full; free some space")
    assert errors.os_error_message(OSError("odd"), "a") == "a: odd"


def test_other_errors_pass():
    with pytest.raises(KeyError), errors.translate_os_errors("a"):
        raise KeyError
