"""Colour only where a person looks."""

import io

import pytest

from tfpipe.process.terminal import coloured


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "shown"),
    [
        (_Terminal(), {}, "\033[31mx\033[0m"),
        (_Terminal(), {"NO_COLOR": ""}, "\033[31mx\033[0m"),  # as no-color.org defines it
        (_Terminal(), {"NO_COLOR": "1"}, "x"),
        (_Terminal(), {"TERM": "dumb"}, "x"),
        (io.StringIO(), {}, "x"),
    ],
)
def test_colour(stream, variables, shown, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert coloured("x", "red", stream=stream) == shown
