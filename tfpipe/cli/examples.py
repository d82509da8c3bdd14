"""Examples at the end of a command's help."""

from __future__ import annotations

import argparse

_TITLE = "\n\nexamples:\n"


def add_examples(parser: argparse.ArgumentParser, *commands: str) -> None:
    """Adds command lines to the end of a command's help, one on each line."""
    parser.formatter_class = _KeepsExamples
    parser.epilog = (parser.epilog or "") + _TITLE + "\n".join(f"  {command}" for command in commands)


class _KeepsExamples(argparse.HelpFormatter):
    """Breaks lines as usual, but not those of examples, so that they can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        words, title, examples = text.partition(_TITLE)
        filled = super()._fill_text(words, width, indent) if words else ""
        return (filled + title + examples).lstrip("\n")
