"""Command-line options made from the settings of a dataclass, so that a setting is typed in one place.

A field made by `tfpipe.settings.setting` carries its help, choices and parser. `add_settings` makes an
option of each such field, and `given` collects the values that were typed:

```
add_settings(parser, TrainConfig, leave_out=("data", "run"))       # --batch-size, --learning-rate, ...
config = TrainConfig(data=args.data, run=args.run, **given(args, TrainConfig))
```

The options have no default of their own: a value that is not typed is left to the dataclass, which also
checks the ranges.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Collection
from typing import Any

from tfpipe.errors import UsageError

# How text is read for each type of a setting, what to call it in an error, and what represents its value in the help.
_KINDS: dict[type, tuple[Callable[[str], Any], str, str]] = {
    int: (int, "a whole number", "N"),
    float: (float, "a number", "X"),
    str: (str, "text", "TEXT"),
}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def add_settings(
    parser: argparse._ActionsContainer,
    config: type,
    *,
    only: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    required: bool = True,
    show_defaults: bool = True,
    server_style: bool = False,
) -> None:
    """Adds an option for each setting of a dataclass.

    Args:
        parser: the parser or option group that gets the options.
        config: a dataclass; fields without `help` in their metadata are left out.
        only: names of the fields that get an option; all when None.
        leave_out: names of fields that get no option here.
        required: whether a setting without a default must be given.
        show_defaults: add the default to the help text.
        server_style: write the options as `tensorflow_model_server` does: underscores in the names, and
            `--flag`, `--flag=true` or `--flag=false` for a truth value.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if "help" in field.metadata and field.name not in leave_out and (only is None or field.name in only):
            words = field.metadata["flag"] or field.name
            name = f"--{words if server_style else words.replace('_', '-')}"
            default = _shown(field) if show_defaults else None
            arguments = _arguments(field, hints[field.name], default=default, server_style=server_style)
            arguments["required"] &= required
            parser.add_argument(name, dest=field.name, **arguments)


def given(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """Returns the settings of a dataclass that were typed, as keywords for it."""
    values = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value is not None}


def truth(text: str) -> bool:
    """Reads `true`, `1`, `false` or `0`."""
    if text.lower() not in _TRUTH:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return _TRUTH[text.lower()]


def whole_numbers(text: str) -> list[int]:
    """Reads a list of whole numbers of 64 bits, such as `1,2,3`."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,2,3") from None
    if any(not -(2**63) <= number < 2**63 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} has a number of more than 64 bits; use -2^63 to 2^63 - 1")
    return numbers


def _arguments(field: dataclasses.Field[Any], hint: Any, *, default: str | None, server_style: bool) -> dict[str, Any]:
    """Returns the keywords of `add_argument` for one field."""
    metadata = field.metadata
    text = metadata["help"] if default is None else f"{metadata['help']} (default {default})"
    arguments: dict[str, Any] = {
        "default": None,
        "required": field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        "help": argparse.SUPPRESS if metadata["hidden"] else text.replace("%", "%%"),
    }
    kind, is_list = _kind(hint)
    if kind is bool:
        if not server_style:
            return {**arguments, "action": argparse.BooleanOptionalAction if field.default else "store_true"}
        return {**arguments, "type": truth, "nargs": "?", "const": True, "metavar": "true|false"}
    arguments |= {"type": _reader(metadata["parse"], kind, is_list=is_list)}
    if metadata["choices"] and not is_list:
        return {**arguments, "choices": tuple(metadata["choices"])}
    metavar = _KINDS[kind][2] if kind in _KINDS else field.name.upper()
    return {**arguments, "metavar": metadata["metavar"] or (f"{metavar},..." if is_list else metavar)}


def _shown(field: dataclasses.Field[Any]) -> str | None:
    """Returns the default as a person would type it; None where there is nothing worth showing."""
    value = field.default
    if value in (dataclasses.MISSING, None, "") or value is False:
        return None
    if value == ():
        return "none"
    if value is True:
        return "true"
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(hint: Any) -> tuple[type, bool]:
    """Returns the type of a setting's values, without `None`, and whether it takes a list of them."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _reader(parse: Callable[[str], Any] | None, kind: type, *, is_list: bool) -> Callable[[str], Any]:
    """Returns the function that turns an option's text into the value."""

    def read(text: str) -> Any:
        try:
            if parse is not None:
                return parse(text)
            if is_list:
                return tuple(make(part.strip()) for part in text.split(",") if part.strip())
            return make(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}") from None

    make, words, _ = _KINDS.get(kind, (kind, f"a {kind.__name__}", ""))
    if is_list:
        words = f"a list of {'numbers such as 0,4,7,-2.5' if kind in (int, float) else 'names such as a,b'}"
    return read
