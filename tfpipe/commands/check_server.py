"""`tfpipe check-server`: does a server, embedded or stock, speak the API as tfpipe's clients need it?"""

from __future__ import annotations

import argparse
import json
import sys

HELP = "check that a server speaks the TensorFlow Serving API as tfpipe's clients need it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("grpc", metavar="HOST:PORT", help="gRPC address of a server of a `tfpipe export` model")
    parser.add_argument("--rest", metavar="HOST:PORT", help="its REST address; without it, gRPC alone is checked")
    parser.add_argument("--model-name", default="vae", metavar="NAME", help="the model's name on the server (vae)")
    parser.add_argument("--timeout-s", type=float, default=60.0, metavar="S", help="deadline of a request, in s (60)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def run(args: argparse.Namespace) -> int:
    """Prints a line for each check; returns 1 if the server differs in one of them, else 0."""
    from serving.checks.conformance import Target, conformance

    target = Target(grpc=args.grpc, rest=args.rest, model=args.model_name, timeout_s=args.timeout_s)
    found: dict[str, str] = {}
    for name, difference in conformance(target):
        found[name] = difference
        print(f"differs  {name}: {difference}" if difference else f"ok       {name}", file=sys.stderr, flush=True)
    different = {name: difference for name, difference in found.items() if difference}
    print(f"{len(found) - len(different)} of {len(found)} checks hold", file=sys.stderr)
    if args.json:
        print(json.dumps({"checks": len(found), "differ": different}))
    return 1 if different else 0
