"""How a command's process ends."""

import pytest

from tfpipe.process import exit_status


def test_a_process_ends_with_the_status_of_its_command(monkeypatch):
    monkeypatch.setattr(exit_status, "_cleanup", True)  # other tests may have called `skip_cleanup`
    with pytest.raises(SystemExit) as caught:
        exit_status.end_process(3)
    assert caught.value.code == 3


class FullStream:
    def flush(self):
        raise OSError("disk full")


@pytest.mark.parametrize(("status", "stream", "expected"), [(0, None, 0), (0, FullStream(), 1), (7, FullStream(), 7)])
def test_without_cleaning_up_the_output_is_still_written(status, stream, expected, monkeypatch):
    monkeypatch.setattr(exit_status, "_cleanup", True)
    exit_status.skip_cleanup()
    if stream:
        monkeypatch.setattr("sys.stdout", stream)

    def end(status):
        raise EOFError(status)

    monkeypatch.setattr("os._exit", end)
    with pytest.raises(EOFError) as caught:
        exit_status.end_process(status)
    assert caught.value.args == (expected,)
