"""Command lines as people type them: `-` for `_` in an option's name and the reverse, `~`, values like `-12,0`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence

_NEGATIVE = re.compile(r"-[\d.]")


def forgiven(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Returns the arguments as argparse wants them.

    Args:
        arguments: what was typed.
        parser: knows the options, also those of its commands.
    """
    takes_value = dict(_options(parser))
    by_letters = {_letters(name): name for name in takes_value}
    result: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            known = name if name in takes_value else by_letters.get(_letters(name), name)
            result.append(f"{known}{equals}{os.path.expanduser(value)}")
        elif result and takes_value.get(result[-1]) and _NEGATIVE.match(argument):
            result[-1] = f"{result[-1]}={argument}"
        else:
            result.append(os.path.expanduser(argument))
    return result


def _letters(name: str) -> str:
    return name.replace("_", "-")


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """Yields every option's name, and whether a value follows it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
        for name in action.option_strings:
            yield name, action.nargs != 0
