"""Examples at the end of a command's help."""

from __future__ import annotations

import argparse
import re
import textwrap

_TITLE = re.compile(r"\n\nexamples?:\n")


def add_examples(parser: argparse.ArgumentParser, *commands: str) -> None:
    """Adds command lines to the end of a command's help, one on each line; call it after setting the epilog."""
    parser.formatter_class = _KeepsExamples
    title = "example" if len(commands) == 1 else "examples"
    parser.epilog = f"{parser.epilog or ''}\n\n{title}:\n" + "\n".join(f"  {command}" for command in commands)


class _KeepsExamples(argparse.HelpFormatter):
    """Breaks lines between words, but not those of examples, so that they can be copied, nor names with dashes."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        found = _TITLE.search(text)
        words, examples = (text[: found.start()], text[found.start() :]) if found else (text, "")
        words = " ".join(words.split())
        filled = textwrap.fill(words, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        return (filled + examples).lstrip("\n")
