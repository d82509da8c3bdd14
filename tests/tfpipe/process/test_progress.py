"""Progress on stderr where it is no terminal."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

import pytest

from tfpipe.process import progress
from tfpipe.process.progress import Progress, Steps, loading_tensorflow


def test_lines_say_count_rate_and_notes(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("train", total=8, unit="example", done=2) as bar:
        bar.update(2, loss=0.5)
        bar.set_done(8)
        assert bar.done == 8
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "train: going on from example 2 of 8"
    assert lines[1].startswith("train: 4/8 example (")
    assert lines[1].endswith(" s left)  loss=0.5")
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


def test_a_plain_line_fits_into_80_columns_and_keeps_the_first_figures(capsys):
    with Progress("train", total=320, unit="step") as bar:
        bar.update(170, epoch="9/20", loss="-1.2345", mse="0.01234", kl="123.45", active="96/2592", wait="12%")
    [line] = capsys.readouterr().err.splitlines()
    assert 60 < len(line) <= 80
    assert "epoch=9/20 loss=-1.2345" in line
    assert "wait=" not in line


def test_work_that_was_begun_says_where_it_goes_on(capsys):
    for done in (0, 170, 320):
        with Progress("train", total=320, unit="step", done=done):
            pass
    said = [line for line in capsys.readouterr().err.splitlines() if "going on" in line]
    assert said == ["train: going on from step 170 of 320"]


@pytest.fixture
def terminal(monkeypatch):
    """Returns a function that shows a bar on a terminal so many columns wide, and returns what is on it."""

    def show(columns: int, **bar) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(theirs, "w") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            with Progress("train", unit="step", **bar) as progress:
                progress.update(170, loss="{0.5}", mse="0.01234", kl="123.45", active="96/2592", wait="12%")
            monkeypatch.setattr(sys, "stderr", sys.__stderr__)
        shown = b"".join(iter(lambda: _read(ours), b"")).decode()
        os.close(ours)
        return shown.replace("\r\n", "\r").split("\r")[-2]

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return show


def _read(terminal: int) -> bytes:
    """Returns what is on a terminal whose other end is closed; nothing at its end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[\w*", "", line)


@pytest.mark.parametrize(
    ("columns", "has", "lacks"),
    [
        (160, ["170/320", "loss={0.5} mse=0.01234 ", "step/s kl=123.45 active=96/2592 wait=12%"], []),
        (80, ["53%", "170/320", "loss={0.5} mse=0.01234"], ["active", "step/s"]),
        (48, ["53%", "170/320"], ["step/s", "loss"]),
        (30, ["53%"], ["170/320", "loss"]),
    ],
)
def test_a_bar_keeps_twenty_columns_and_figures_drop_out(terminal, columns, has, lacks):
    line = _plain(terminal(columns, total=320))
    assert len(line) <= columns
    bar = line.partition("|")[2].rpartition("|")[0]
    assert len(bar) >= (20 if columns >= 32 else 10)
    for words in has:
        assert words in line
    for words in lacks:
        assert words not in line


def test_a_bar_without_a_total_shows_the_count_and_fits(terminal):
    line = _plain(terminal(80))
    assert "170 step [" in line
    assert len(line) <= 80


def test_a_bar_has_colour_unless_no_color_is_set(terminal, monkeypatch):
    assert "\x1b[32m" in terminal(80, total=320)
    with monkeypatch.context() as also:
        also.setenv("NO_COLOR", "1")
        assert "\x1b[3" not in terminal(80, total=320)


def test_steps_say_their_time_when_they_end(capsys):
    with Steps("export") as step:
        step("writing the model ...")
        step("reading it back")
    said = capsys.readouterr().err
    assert re.sub(r"\d+\.\d s", "T", said).splitlines() == [
        "export: writing the model ...",
        "export: writing the model: T",
        "export: reading it back ...",
        "export: reading it back: T",
    ]


def test_a_step_that_fails_has_no_time_and_quiet_steps_say_nothing(capsys):
    def fail(quiet: bool) -> None:
        with Steps("export", quiet=quiet) as step:
            step("writing")
            raise ValueError("stop")

    for quiet in (True, False):
        with pytest.raises(ValueError, match="stop"):
            fail(quiet)
    assert capsys.readouterr().err == "export: writing ...\n"


def test_tensorflow_is_loaded_with_a_word_only_once(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with loading_tensorflow("train"):
        pass
    assert re.fullmatch(
        r"train: loading TensorFlow \.\.\.\ntrain: loading TensorFlow: \d\.\d s\n", capsys.readouterr().err
    )
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    with loading_tensorflow("train"):
        pass
    assert capsys.readouterr().err == ""
