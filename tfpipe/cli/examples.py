"""Examples at the end of a command's help."""

from __future__ import annotations

import argparse
import re

_TITLE = re.compile(r"\n\nexamples?:\n")


def add_examples(parser: argparse.ArgumentParser, *commands: str) -> None:
    """Adds command lines to the end of a command's help, one on each line; call it after setting the epilog."""
    parser.formatter_class = _KeepsExamples
    title = "example" if len(commands) == 1 else "examples"
    parser.epilog = f"{parser.epilog or ''}\n\n{title}:\n" + "\n".join(f"  {command}" for command in commands)


class _KeepsExamples(argparse.HelpFormatter):
    """Breaks lines as usual, but not those of examples, so that they can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        found = _TITLE.search(text)
        words, examples = (text[: found.start()], text[found.start() :]) if found else (text, "")
        filled = super()._fill_text(words, width, indent) if words else ""
        return (filled + examples).lstrip("\n")
