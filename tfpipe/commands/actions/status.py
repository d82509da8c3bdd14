"""`tfpipe client status`: the versions of a model that a server knows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tfpipe.commands.actions.output import say

if TYPE_CHECKING:
    from serving.client.client import Client

HELP = "the versions of the model that the server knows"
EXAMPLE = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the options of the server are enough."""


def run(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    """Prints a line for each version."""
    versions = [{"version": v.version, "state": v.state, "error": v.error} for v in client.status()]
    for known in versions:
        say(f"version {known['version']}: {known['state']} {known['error']}".rstrip())
    return {"model": args.model_name, "versions": versions}
