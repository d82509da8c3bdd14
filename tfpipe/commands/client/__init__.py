"""`tfpipe client`: sends recordings, latents or seeds to a running server and writes the answers to files.

Each action is a module of this folder with `HELP`, `add_arguments(parser)` and `run(client, args)`, which returns
the object that `--json` prints. `output` writes the files.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

from tfpipe.commands.client.output import say
from tfpipe.errors import UsageError

HELP = "encode, decode, reconstruct, generate and interpolate through a running server"
_ACTIONS = ("encode", "decode", "reconstruct", "generate", "interpolate", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name in _ACTIONS:
        module = _module(name)
        action = actions.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(action)
        _add_server_arguments(action)


def run(args: argparse.Namespace) -> int:
    """Runs one action against the server.

    Raises:
        UsageError: options that do not go together.
        ServingError: the server cannot be reached, or refuses the request.
    """
    from serving.client.client import Client
    from serving.client.connection import ClientTls

    if (args.tls_cert or args.tls_key) and not args.tls_ca:
        raise UsageError("--tls-cert and --tls-key need --tls-ca, the authority that signs the server's certificate")
    tls = ClientTls(args.tls_ca, args.tls_cert, args.tls_key) if args.tls_ca else None
    with Client(
        args.server, model=args.model_name, version=args.version, timeout_s=args.timeout_s, tls=tls, on_wait=say
    ) as client:
        result = _module(args.action).run(client, args)
    if args.json:
        print(json.dumps(result))
    return 0


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="gRPC address of the server")
    parser.add_argument("--model-name", default="vae", metavar="NAME", help="the model's name on the server (vae)")
    parser.add_argument("--version", type=int, metavar="N", help="ask this version (the newest)")
    parser.add_argument("--timeout-s", type=float, default=60.0, metavar="S", help="deadline of a request, in s (60)")
    parser.add_argument(
        "--tls-ca", type=Path, metavar="PEM", help="use TLS; certificate of the authority that signs the server's"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="the client's certificate, if the server asks")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="the key of the client's certificate")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
