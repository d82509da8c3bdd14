"""A setting is typed once: as a dataclass field with its default, its help text and the values it may take.

```
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    latent: int = setting(16, help="dimensions of z", at_least=1, at_most=4096)

    def __post_init__(self) -> None:
        check(self)
```

Command-line options and error messages are made from such fields. Loads no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import operator
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfpipe.errors import UsageError

_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
_ENDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str | None = None,
    choices: Sequence[Any] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    parse: Callable[[str], Any] | None = None,
    hidden: bool = False,
    flag: str | None = None,
    default_factory: Any = dataclasses.MISSING,
) -> Any:
    """Returns a dataclass field whose `metadata` holds the arguments below, by their names.

    Args:
        default: the value when none is given; without one (and without `default_factory`) the setting is required.
        help: one line for the option's help and the documentation, with the unit.
        metavar: stands for the value in the option's help, such as `N` or `DB`.
        choices: all values that are allowed.
        at_least: the smallest value that is allowed.
        above: the value must be larger than this.
        at_most: the largest value that is allowed.
        below: the value must be smaller than this.
        parse: turns the option's text into the value, if the field's type does not say how.
        hidden: whether the option is left out of the help.
        flag: the option's name without dashes, if it is not the field's.
        default_factory: makes the default, as in `dataclasses.field`.
    """
    ends = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "metavar": metavar, "choices": choices, "parse": parse, "hidden": hidden, **ends}
    metadata["flag"] = flag
    arguments: dict[str, Any] = {"default": default, "default_factory": default_factory, "metadata": metadata}
    return dataclasses.field(**arguments)


def check(config: Any) -> None:
    """Checks the settings of a dataclass instance; call it in `__post_init__`.

    A path given for text is stored as text, and a list or a single value given for a tuple as a
    tuple. Each element of a tuple must be one of the choices and within the range.

    Raises:
        UsageError: a value has the wrong type or is not allowed; the message names the setting, the value and the fix.
    """
    owner: type = type(config)
    for field in dataclasses.fields(config):
        if "help" not in field.metadata:
            continue
        name, given = field.name, getattr(config, field.name)
        fix = f"use {allowed(owner, name)}"
        try:
            value = _fitted(given, _hints(owner)[name])
        except TypeError:
            raise UsageError(f"{name}={given!r} has the wrong type ({type(given).__name__}); {fix}") from None
        object.__setattr__(config, name, value)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and (problem := _problem(item, field.metadata)):
                raise UsageError(f"{name}={item!r} {problem}; {fix}")


def allowed(config: type, name: str) -> str:
    """Returns in words which values a setting may take, such as `a whole number, at least 1 and at most 4096`."""
    metadata = next(field.metadata for field in dataclasses.fields(config) if field.name == name)
    if metadata["choices"]:
        return f"one of {', '.join(str(choice) for choice in metadata['choices'])}"
    ends = [f"{end.replace('_', ' ')} {metadata[end]}" for end in _ENDS if metadata[end] is not None]
    return ", ".join(filter(None, [_kind(_hints(config)[name]), " and ".join(ends)]))


def _problem(value: Any, metadata: Mapping[str, Any]) -> str:
    """Returns what is wrong with a value of the right type, or an empty text."""
    if metadata["choices"]:
        return "" if value in metadata["choices"] else "is unknown"
    within = all(test(value, metadata[end]) for end, test in _ENDS.items() if metadata[end] is not None)
    return "" if within and not (isinstance(value, float) and math.isnan(value)) else "is out of range"


@functools.cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _fitted(value: Any, hint: Any) -> Any:
    """Returns `value` as an instance of the type `hint`, or raises TypeError."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            try:
                return _fitted(value, argument)
            except TypeError:
                continue
        raise TypeError
    if origin is tuple:
        single = isinstance(value, str | os.PathLike) or not isinstance(value, Sequence)
        return tuple(_fitted(item, arguments[0]) for item in ((value,) if single else value))
    if origin is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if origin in (int, float):  # NumPy's numbers become Python's; a bool is no number here
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if origin is int else numbers.Real):
            raise TypeError
        return value if isinstance(value, int | float) else origin(value)
    if origin is not Any and not isinstance(value, origin):
        raise TypeError
    return value


def _kind(hint: Any) -> str:
    """Returns the words for a type, such as `a whole number or None`."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(argument) for argument in arguments)
    if origin is tuple:
        return f"a list whose elements are each {_kind(arguments[0])}"
    return _KINDS.get(origin, getattr(origin, "__name__", str(origin)))
