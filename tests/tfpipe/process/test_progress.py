"""Progress on stderr where it is no terminal."""

import pytest

from tfpipe.process import progress
from tfpipe.process.progress import Progress


def test_lines_say_count_rate_and_notes(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("train", total=8, unit="example", done=2) as bar:
        bar.update(2, loss=0.5)
        bar.set_done(8)
        assert bar.done == 8
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("train: 4/8 example (")
    assert lines[0].endswith(" s left)  loss=0.5")
    assert lines[-1].startswith("train: 8/8 example (")


def test_messages_are_lines(capsys):
    with Progress("scan") as bar:
        bar.message("a.wav: is an empty file")
    assert capsys.readouterr().err.splitlines()[0] == "a.wav: is an empty file"


def test_quiet_shows_nothing(capsys):
    with Progress("scan", quiet=True) as bar:
        bar.update()
        bar.message("x")
    assert capsys.readouterr().err == ""


def test_after_an_error_there_is_no_last_line(capsys):
    with pytest.raises(ValueError, match="stop"), Progress("scan"):
        raise ValueError("stop")
    assert capsys.readouterr().err == ""
