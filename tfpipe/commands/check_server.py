"""`tfpipe check-server`: does a server, embedded or stock, speak the API as tfpipe's clients need it?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tfpipe.cli.examples import add_examples
from tfpipe.cli.reach import add_wait, require_listening
from tfpipe.cli.token_option import add_token_file, token_of
from tfpipe.errors import UsageError

HELP = "check that a server speaks the TensorFlow Serving API as tfpipe's clients need it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from serving.protocol.names import MODEL_NAME

    add_examples(
        parser,
        "tfpipe check-server localhost:8500 --rest localhost:8501",
        "tfpipe check-server --write-api-model models/api",
        "tfpipe check-server localhost:8500 --rest localhost:8501 --api-model api",
    )
    parser.add_argument("grpc", metavar="HOST:PORT", nargs="?", help="gRPC address of the server")
    parser.add_argument("--rest", metavar="HOST:PORT", help="its REST address; without it, gRPC alone is checked")
    parser.add_argument(
        "--model-name",
        default=MODEL_NAME,
        metavar="NAME",
        help="the server's name for a model of `tfpipe export` (default %(default)s)",
    )
    parser.add_argument(
        "--api-model",
        metavar="NAME",
        help="check the API itself, on the model of --write-api-model, which the server must serve under this name",
    )
    parser.add_argument(
        "--write-api-model",
        metavar="DIR",
        help="write that model into a folder, for any TensorFlow Serving to serve, and end",
    )
    parser.add_argument(
        "--timeout-s", type=float, default=60.0, metavar="S", help="deadline of a request, in s (default %(default)g)"
    )
    add_wait(parser)
    add_token_file(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each check; returns 1 if the server differs in one of them, else 0.

    Raises:
        UsageError: there is no address to check, or the folder for the model is not empty.
    """
    if args.write_api_model:
        return _write(Path(args.write_api_model))
    if not args.grpc:
        raise UsageError("give the server's gRPC address, HOST:PORT")
    from serving.checks.conformance import Target, api_conformance, conformance

    target = Target(
        grpc=args.grpc,
        rest=args.rest,
        model=args.api_model or args.model_name,
        timeout_s=args.timeout_s,
        token=token_of(args),
    )
    for address in filter(None, (args.grpc, args.rest)):
        require_listening(address, wait_s=args.wait_s)
    found: dict[str, str] = {}
    for name, difference in (api_conformance if args.api_model else conformance)(target):
        found[name] = difference
        print(f"differs  {name}: {difference}" if difference else f"ok       {name}", file=sys.stderr, flush=True)
    different = {name: difference for name, difference in found.items() if difference}
    print(f"{len(found) - len(different)} of {len(found)} checks hold", file=sys.stderr)
    if args.json:
        failed = {"error": f"{args.grpc} differs in {len(different)} of {len(found)} checks", "code": 1}
        print(json.dumps({"checks": len(found), "differ": different, **(failed if different else {})}))
    return 1 if different else 0


def _write(folder: Path) -> int:
    from serving.checks.api_model import write_api_model

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty; name a new folder")
    print(write_api_model(folder))
    return 0
