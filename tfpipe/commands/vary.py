"""`tfpipe vary`: the action of `tfpipe.commands.actions.vary` in this process, without a server."""

from __future__ import annotations

from tfpipe.commands.actions import LocalCommand

_command = LocalCommand("vary")
HELP, add_arguments, run = _command.HELP, _command.add_arguments, _command.run
