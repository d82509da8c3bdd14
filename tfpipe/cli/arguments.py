"""Command lines as people type them, turned into what argparse understands.

- `--shard_mib` means `--shard-mib`, and `--rest-api-port` means `--rest_api_port`. So options that had underscores in
  earlier versions still work.
- A value may begin with a minus sign: `--semitones -12,0`.
- `~` at the start of an argument or of an option's value means the home folder.
- If the parser has the option `IGNORED` (as `tfpipe serve` does), options that it does not know become values of it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence

# Collects options that a command does not know and ignores, as `tensorflow_model_server` does.
IGNORED = "--ignored_flag"
_NEGATIVE = re.compile(r"-[\d.]")


def normalised(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Returns the arguments as argparse understands them.

    Args:
        arguments: the arguments that were typed.
        parser: the parser that will read them; it knows the names of the options.
    """
    takes_value = dict(_options(parser))
    by_dashed_name = {_dashed(name): name for name in takes_value}
    result: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            known = name if name in takes_value else by_dashed_name.get(_dashed(name), name)
            if IGNORED in takes_value and not _is_known(known, takes_value):
                result.append(f"{IGNORED}={argument}")
                continue
            result.append(f"{known}{equals}{os.path.expanduser(value)}")
        elif result and result[-1].startswith(f"{IGNORED}=") and "=" not in result[-1].removeprefix(f"{IGNORED}="):
            result[-1] += f"={argument}"  # the value of an option that is ignored
        elif result and takes_value.get(result[-1]) and _NEGATIVE.match(argument):
            result[-1] = f"{result[-1]}={argument}"
        else:
            result.append(os.path.expanduser(argument))
    return result


def _is_known(name: str, options: Mapping[str, bool]) -> bool:
    """Tells whether an option, or exactly one that begins with the same letters, is in `options`."""
    return name in options or sum(option.startswith(name) for option in options) == 1


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """Yields the name of every option, those of the sub-commands included, and whether a value follows it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
        for name in action.option_strings:
            yield name, action.nargs != 0
