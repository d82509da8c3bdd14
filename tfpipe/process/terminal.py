"""Colour, only where a person looks: on a terminal, and not if the variable NO_COLOR is set (https://no-color.org)."""

from __future__ import annotations

import os
from typing import TextIO

_CODES = {"bold": "1", "red": "31", "green": "32"}


def has_colour(stream: TextIO) -> bool:
    """Tells whether text on a stream may have colour."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def coloured(text: str, colour: str, *, stream: TextIO) -> str:
    """Returns text in a colour (`bold`, `red` or `green`) where the stream may have it, else as it is."""
    return f"\033[{_CODES[colour]}m{text}\033[0m" if has_colour(stream) else text
