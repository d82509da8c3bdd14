"""The options of the actions that draw new sounds, and their ranges."""

from __future__ import annotations

import argparse

from tfpipe.errors import UsageError

_LEVELS_DB = -100.0, 30.0


def add_label(parser: argparse.ArgumentParser) -> None:
    """Adds the label that a draw shall sound like."""
    parser.add_argument(
        "--label", metavar="NAME", help="a label of the model, such as Piano (default: any); needs a learned prior"
    )


def add_temperature(parser: argparse.ArgumentParser) -> None:
    """Adds the spread of a draw."""
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="spread of the draw (default %(default)g)"
    )


def add_level(parser: argparse.ArgumentParser) -> None:
    """Adds the level of a sound that has none of its own."""
    from serving.protocol.names import REF_DB

    parser.add_argument(
        "--ref-db",
        type=float,
        default=REF_DB,
        metavar="DB",
        help="level of the loudest point, in dB (default %(default)g, which is typical of recordings)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Adds the seed of the noise."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed gives another result (default %(default)s)"
    )


def check_draw(args: argparse.Namespace) -> None:
    """Refuses a level, a temperature or a seed that is out of range.

    Raises:
        UsageError: see above.
    """
    from serving.protocol.names import REF_DB, TEMPERATURES

    level, temperature, seed = (
        getattr(args, "ref_db", REF_DB),
        getattr(args, "temperature", 1.0),
        getattr(args, "seed", 0),
    )
    if not _LEVELS_DB[0] <= level <= _LEVELS_DB[1]:
        raise UsageError(
            f"--ref-db {level:g} is out of range; use {_LEVELS_DB[0]:g} to {_LEVELS_DB[1]:g} dB "
            f"(recordings lie about {REF_DB:g})"
        )
    if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        raise UsageError(
            f"--temperature {temperature:g} is out of range; use {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}"
        )
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"--seed {seed} has more than 64 bits; use -2^63 to 2^63 - 1")
