"""`tfpipe client`: sends recordings, latents or seeds to a running server and writes the answers to files.

The same actions run without a server as `tfpipe encode`, `tfpipe reconstruct` and so on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tfpipe.cli.examples import add_examples
from tfpipe.cli.reach import add_wait, require_listening
from tfpipe.cli.token_option import add_token_file, token_of
from tfpipe.commands.actions import action
from tfpipe.commands.actions.output import say
from tfpipe.errors import UsageError

HELP = "encode, decode, reconstruct, generate, continue, vary and interpolate through a running server"
_ACTIONS = ("encode", "decode", "reconstruct", "generate", "continue", "vary", "interpolate", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions and their arguments."""
    add_examples(
        parser,
        "tfpipe client status --server localhost:8500",
        "tfpipe client generate --seeds 1,2,3 --server localhost:8500 --out made",
        "tfpipe client generate --label Piano --seconds 30 --server localhost:8500 --out made",
        "tfpipe client reconstruct song.wav --server localhost:8500 --out rebuilt",
        "tfpipe client encode song.wav --server localhost:8500 --out latents.npz",
        "tfpipe client status --server host:8500 --tls-ca ca.pem --token-file token.txt",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name in _ACTIONS:
        module = action(name)
        chosen = actions.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(chosen)
        _add_server_arguments(chosen)
        add_examples(chosen, " ".join(["tfpipe client", name, *module.EXAMPLE.split(), "--server localhost:8500"]))


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
    token = token_of(args)
    require_listening(args.server, wait_s=args.wait_s)
    tls = ClientTls(args.tls_ca, args.tls_cert, args.tls_key) if args.tls_ca else None
    with Client(
        args.server,
        model=args.model_name,
        version=args.version,
        timeout_s=args.timeout_s,
        tls=tls,
        token=token,
        on_wait=say,
    ) as client:
        result = action(args.action).run(client, args)
    if args.json:
        print(json.dumps(result))
    return 0


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    from serving.protocol.names import MODEL_NAME

    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="gRPC address of the server")
    parser.add_argument(
        "--model-name", default=MODEL_NAME, metavar="NAME", help="the model's name on the server (default %(default)s)"
    )
    parser.add_argument("--version", type=int, metavar="N", help="version to ask (default: the newest)")
    parser.add_argument(
        "--timeout-s", type=float, default=60.0, metavar="S", help="deadline of a request, in s (default %(default)g)"
    )
    add_wait(parser)
    parser.add_argument(
        "--tls-ca", type=Path, metavar="PEM", help="use TLS; certificate of the authority that signs the server's"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="the client's certificate, if the server asks")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="the key of the client's certificate")
    add_token_file(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
