"""What people do with a model: encode, decode, reconstruct, generate, continue, vary, interpolate.

Each action is a module of this folder with `HELP`, `EXAMPLE` (its arguments in the example of the help),
`add_arguments(parser)` and `run(vae, args)`, which returns the object that `--json` prints. `output` writes the files.
An action runs in this process (`tfpipe generate --model DIR`, `tfpipe.commands.generate`) or through a server
(`tfpipe client generate --server HOST:PORT`). The action `status` asks the server about its versions, so it exists
only there.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

from tfpipe.cli.examples import add_examples


def action(name: str) -> ModuleType:
    """Returns the module of an action."""
    return importlib.import_module(f"{__name__}.{name}")


class LocalCommand:
    """The command that runs an action in this process.

    Args:
        name: name of the action, which is also the command's.
    """

    def __init__(self, name: str) -> None:
        self._name, self._action = name, action(name)
        self.HELP: str = self._action.HELP

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the action's arguments and the model."""
        self._action.add_arguments(parser)
        parser.add_argument(
            "--model",
            type=Path,
            required=True,
            metavar="MODEL_DIR",
            help="exported model: a folder of versions, of which the newest is taken, or one version",
        )
        parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
        add_examples(parser, f"tfpipe {self._name} {self._action.EXAMPLE} --model models/vae")

    def run(self, args: argparse.Namespace) -> int:
        """Loads the model and runs the action.

        Raises:
            ServingError: there is no model in the folder, or it cannot be loaded.
        """
        from serving.client.local_model import LocalModel
        from tfpipe.process.progress import timed

        with LocalModel(args.model, loading=lambda: timed(self._name, f"loading {args.model}")) as vae:
            result = self._action.run(vae, args)
        if args.json:
            print(json.dumps(result))
        return 0
