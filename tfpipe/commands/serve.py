"""`tfpipe serve`: the embedded server, with the flags of tensorflow_model_server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.cli.options import add_settings, given, truth
from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.server.server import Server

HELP = "serve an exported model over the TensorFlow Serving API (gRPC and REST)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of tensorflow_model_server that this server knows, and a few of its own."""
    from serving.server.config import ServerConfig

    add_settings(parser, ServerConfig, server_style=True)
    add = parser.add_argument
    add(
        "--enable_batching",
        type=truth,
        nargs="?",
        const=True,
        metavar="true|false",
        help="compute requests of several clients in one batch (default: yes, with sizes that suit this machine)",
    )
    add(
        "--batching_parameters_file",
        type=Path,
        metavar="FILE",
        help="sizes and times of batches (text proto); needs --enable_batching",
    )
    add("--ssl_config_file", type=Path, metavar="FILE", help="keys and certificates of the gRPC port (text proto)")
    add("--monitoring_config_file", type=Path, metavar="FILE", help="Prometheus page on the REST port (text proto)")
    add("--log_format", choices=("text", "json"), default="text", help="format of the log lines (default text)")
    add("--json", action="store_true", help="print one JSON object with the ports when ready")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: flags that do not go together.
        ServingError: a configuration file is wrong, or a port or folder cannot be used.
    """
    from serving.server.config import ServerConfig
    from serving.server.config_files import read_metrics_path, read_tls
    from serving.server.metrics import configure_logging
    from serving.server.server import serve

    configure_logging(args.log_format)
    config = ServerConfig(
        **given(args, ServerConfig),
        batching=_batching(args),
        tls=read_tls(args.ssl_config_file) if args.ssl_config_file else None,
        metrics_path=read_metrics_path(args.monitoring_config_file) if args.monitoring_config_file else None,
    )
    serve(config, on_ready=lambda server: _say_ready(server, as_json=args.json))
    return 0


def _batching(args: argparse.Namespace) -> Any:
    from serving.server.config_files import Batching, read_batching

    if args.batching_parameters_file is None:
        return None if args.enable_batching is False else Batching()
    if not args.enable_batching:
        raise UsageError("--batching_parameters_file is set without setting --enable_batching to true")
    return read_batching(args.batching_parameters_file)


def _say_ready(server: Server, *, as_json: bool) -> None:
    config, models = server.config, server.catalog.versions()
    rest = f", REST {config.host}:{server.rest_port}" if server.rest_port else ""
    which = "; ".join(
        f"model {name}, {'version ' + ', '.join(map(str, versions)) if versions else 'no version yet'}"
        for name, versions in models.items()
    )
    print(f"ready: {which}, gRPC {config.host}:{server.port}{rest}", file=sys.stderr, flush=True)
    if as_json:
        ports = {"port": server.port, "rest_api_port": server.rest_port}
        first = next(iter(models))
        print(json.dumps({"model": first, "versions": server.versions, **ports, "models": models}), flush=True)
