"""Writing in a thread: in order, with the errors of the writer, and finished at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tfpipe.errors import RunError, TfpipeError
from tfpipe.training.background import Writer


def test_pieces_are_written_in_order_while_the_run_goes_on() -> None:
    written: list[int] = []
    go = threading.Event()

    def first() -> None:
        assert go.wait(10)
        written.append(1)

    with Writer() as writer:
        writer.give(first)
        assert not written  # `give` has not waited for it
        go.set()
        writer.give(lambda: written.append(2))
        assert written[0] == 1
    assert written == [1, 2]


def fail() -> None:
    raise TfpipeError("the disk is full")


def use(*pieces: Callable[[], None], error: Exception | None = None) -> None:
    with Writer() as writer:
        for piece in pieces:
            writer.give(piece)
        if error:
            raise error


def test_an_error_is_raised_at_the_next_piece_or_at_the_end() -> None:
    written: list[int] = []
    for pieces in ((fail,), (fail, lambda: written.append(1))):
        with pytest.raises(TfpipeError, match="the disk is full"):
            use(*pieces)
    assert not written


def test_an_error_of_the_run_is_not_hidden_by_one_of_the_writer() -> None:
    with pytest.raises(RunError, match="the loss is not finite"):
        use(fail, error=RunError("the loss is not finite"))
