"""The parser of every command: a short usage line, required options first, and the nearest name for one misspelt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

# The title of the group whose options stand first in the help and in the usage line. A command may put options there
# that argparse need not require, because another option takes their place.
REQUIRED = "required options"
_USAGE = 2
# An error lists the known names if there are no more than this.
_LISTED = 10


class WrongUsage(SystemExit):
    """Raised when the arguments are wrong, after the line about it was printed; `text` is that line's message."""

    def __init__(self, text: str) -> None:
        super().__init__(_USAGE)
        self.text = text


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` for people who read its help and its errors for the first time."""

    def error(self, message: str) -> NoReturn:
        """Prints the usage line and the error to stderr.

        Raises:
            WrongUsage: always.
        """
        from tfpipe.process.terminal import coloured

        self.print_usage(sys.stderr)
        print(f"{coloured(f'{self.prog}: error:', 'red', stream=sys.stderr)} {message}", file=sys.stderr, flush=True)
        raise WrongUsage(message)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parses the arguments, and refuses those that are unknown.

        An unknown option is found before argparse misses a required one, because it may be that one, misspelt.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        unknown = [argument for argument in self._own(arguments) if self._is_unknown(argument)]
        if unknown:
            self._refuse_option(unknown[0])
        known, unknown = super().parse_known_args(arguments, namespace)
        if unknown and unknown[0].startswith("-"):
            self._refuse_option(unknown[0])
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, []

    def format_usage(self) -> str:
        """Returns one line: what must be given, then `[options]`."""
        given = [_positional(action) for action in self._positional()]
        alternatives = [group._group_actions for group in self._mutually_exclusive_groups if group.required]
        for action in self._required():
            others = next((group for group in alternatives if action in group), [action])
            if action is others[0]:
                text = " | ".join(f"{one.option_strings[-1]} {_value(one)}" for one in others)
                given.append(f"({text})" if len(others) > 1 else text)
        return f"usage: {' '.join([self.prog, *given, '[options]'])}\n"

    def format_help(self) -> str:
        """Returns the help: usage, description, positional arguments, required options, other options, examples."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        required = self._required()
        sections: list[tuple[str | None, str | None, list[argparse.Action]]] = [
            ("positional arguments", None, self._positional()),
            (REQUIRED, None, required),
        ]
        for group in self._action_groups:
            if group is not self._positionals and group.title != REQUIRED:
                rest = [action for action in group._group_actions if action not in required and action.option_strings]
                sections.append((group.title, group.description, rest))
        for title, description, actions in sections:
            if any(action.help is not argparse.SUPPRESS for action in actions):
                formatter.start_section(title)
                formatter.add_text(description)
                formatter.add_arguments(actions)
                formatter.end_section()
        formatter.add_text(self.epilog)
        return f"{self.format_usage()}\n{formatter.format_help()}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuses a value that is not among the choices; an unknown command has an error of its own."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            what = str(action.metavar or "command").lower()
            self.error(f"unknown {what} {value!r}{_did_you_mean(str(value), action.choices, shown=repr)}")
        super()._check_value(action, value)

    def _own(self, arguments: Sequence[str]) -> list[str]:
        """Returns the arguments that this parser reads itself: not those after the name of a command of its own."""
        if self._subparsers is None:
            return list(arguments)
        end = next((at for at, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
        return list(arguments[:end])

    def _is_unknown(self, argument: str) -> bool:
        """Tells whether an argument looks like a long option and is neither one nor the beginning of one."""
        name = argument.partition("=")[0]
        return (
            name.startswith("--")
            and " " not in name
            and not any(option.startswith(name) for option in self._option_string_actions)
        )

    def _refuse_option(self, argument: str) -> NoReturn:
        name = argument.partition("=")[0]
        options = [option for action in self._shown() for option in action.option_strings if option.startswith("--")]
        self.error(f"unrecognized option {name}{_did_you_mean(name, options, shown=str)}")

    def _shown(self) -> list[argparse.Action]:
        return [action for action in self._actions if action.option_strings and action.help is not argparse.SUPPRESS]

    def _required(self) -> list[argparse.Action]:
        """Returns the options that must be given, and those in the group of that name."""
        named = [action for group in self._action_groups if group.title == REQUIRED for action in group._group_actions]
        return [action for action in self._shown() if action.required or action in named]

    def _positional(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]


def _did_you_mean(name: str, known: Collection[str], *, shown: Callable[[str], str]) -> str:
    """Returns the end of an error: the known name that is nearest, or where all of them are if none is near."""
    import difflib

    if near := difflib.get_close_matches(name, list(known), n=1):
        return f"; did you mean {shown(near[0])}?"
    return f"; use {', '.join(known)}" if len(known) <= _LISTED else "; see --help"


def _value(action: argparse.Action) -> str:
    """Returns what stands for an option's value in the usage line."""
    return str(action.metavar or action.dest.upper())


def _positional(action: argparse.Action) -> str:
    """Returns a positional argument as the usage line shows it, such as `INPUT ...`."""
    name = _value(action)
    if action.nargs in ("?", "*"):
        return f"[{name}{' ...' if action.nargs == '*' else ''}]"
    return f"{name} ..." if action.nargs == "+" else name
