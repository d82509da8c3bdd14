"""`tfpipe continue`: the action of `tfpipe.commands.actions.continue` in this process, without a server."""
# ruff: noqa: N999 (the name of the command is a keyword; the module is imported by its name as text)

from __future__ import annotations

from tfpipe.commands.actions import LocalCommand

_command = LocalCommand("continue")
HELP, add_arguments, run = _command.HELP, _command.add_arguments, _command.run
