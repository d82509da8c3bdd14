"""`tfpipe serve`: the embedded server, with the flags of tensorflow_model_server."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.server import Server

HELP = "serve an exported model over the TensorFlow Serving API (gRPC and REST)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments; names are tensorflow_model_server's."""
    add = parser.add_argument
    add("--model_base_path", type=Path, required=True, metavar="MODEL_DIR", help="folder with numbered versions")
    add("--model_name", default="vae", help="the model's name in requests (default vae)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    add("--port", type=int, default=8500, help="gRPC port; 0 picks a free one (default 8500)")
    add("--rest_api_port", type=int, default=8501, help="REST port; 0 picks a free one, -1 is none (default 8501)")
    add("--grpc_max_threads", type=int, default=0, help="threads that take requests; 0 decides by itself (default 0)")
    add(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1.0,
        help="s between looks for new versions; 0 looks once (default 1)",
    )
    add(
        "--enable_model_warmup",
        type=_boolean,
        default=True,
        metavar="true|false",
        help="run the model's warm-up requests before it serves (default true)",
    )
    add("--json", action="store_true", help="print one JSON object with the ports when ready")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    from serving.server import ServerConfig, serve

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    names = (
        "model_base_path model_name host port rest_api_port grpc_max_threads "
        "file_system_poll_wait_seconds enable_model_warmup"
    )
    config = ServerConfig(**{name: getattr(args, name) for name in names.split()})
    serve(config, on_ready=lambda server: _say_ready(server, as_json=args.json))
    return 0


def _say_ready(server: Server, *, as_json: bool) -> None:
    config = server.config
    rest = f", REST {config.host}:{server.rest_port}" if server.rest_port else ""
    which = f"version {server.versions[0]}" if server.versions else "no version yet"
    print(
        f"ready: model {config.model_name}, {which}, gRPC {config.host}:{server.port}{rest}",
        file=sys.stderr,
        flush=True,
    )
    if as_json:
        ports = {"port": server.port, "rest_api_port": server.rest_port}
        print(json.dumps({"model": config.model_name, "versions": server.versions, **ports}), flush=True)


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return values[text.lower()]
