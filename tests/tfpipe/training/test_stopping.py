"""What a training says when it is asked to stop."""

import io
import os
import signal
import sys

import pytest

from tfpipe.training.stopping import stop_signals


class _Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_signal_is_answered_below_the_bar_and_the_handlers_come_back(terminal, monkeypatch):
    stream = _Stream(terminal=terminal)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as replaced:
        replaced.setattr(sys, "stderr", stream)
        with stop_signals() as stop:
            assert not stop.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(5.0)
    assert stream.getvalue() == "\n" * terminal + "train: stopping after this step, saving\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_interrupt_stops_at_once():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
