"""`tfpipe serve`: the embedded server, with the flags of tensorflow_model_server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from serving.server.server import Server

HELP = "serve an exported model over the TensorFlow Serving API (gRPC and REST)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments; names are tensorflow_model_server's."""
    add = parser.add_argument
    add("--model_base_path", type=Path, metavar="MODEL_DIR", help="folder with numbered versions")
    add("--model_name", default="vae", help="the model's name in requests (default vae)")
    add("--model_config_file", type=Path, metavar="FILE", help="models, version policies and labels (text proto)")
    add("--model_config_file_poll_wait_seconds", type=float, default=0.0, help="s between its readings; 0 reads once")
    _add_boolean(
        parser,
        "--allow_version_labels_for_unavailable_models",
        default=False,
        text="a new label may name a version that is not loaded yet",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    add("--port", type=int, default=8500, help="gRPC port; 0 picks a free one (default 8500)")
    add("--rest_api_port", type=int, default=8501, help="REST port; 0 picks a free one, -1 is none (default 8501)")
    add("--rest_api_timeout_in_ms", type=int, default=30_000, help="longest wait of a REST request (default 30000)")
    add("--grpc_max_threads", type=int, default=0, help="threads that take requests; 0 decides by itself (default 0)")
    add(
        "--grpc_front_end",
        default="auto",
        metavar="auto|native|python",
        help="what speaks gRPC: native (compiled, no TLS), python, or native where it can be (default auto)",
    )
    add(
        "--file_system_poll_wait_seconds",
        type=float,
        default=1.0,
        help="s between looks for new versions; 0 looks once (default 1)",
    )
    _add_boolean(parser, "--enable_model_warmup", default=True, text="run the model's warm-up requests first")
    _add_boolean(parser, "--enable_batching", default=None, text="put requests together (default: yes, sizes chosen)")
    add(
        "--batching_parameters_file",
        type=Path,
        metavar="FILE",
        help="sizes and times of batches (text proto); needs --enable_batching",
    )
    add("--ssl_config_file", type=Path, metavar="FILE", help="keys and certificates of the gRPC port (text proto)")
    add("--monitoring_config_file", type=Path, metavar="FILE", help="Prometheus page on the REST port (text proto)")
    add("--log_format", choices=("text", "json"), default="text", help="how log lines look (default text)")
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
    names = (
        "model_base_path model_name model_config_file model_config_file_poll_wait_seconds "
        "allow_version_labels_for_unavailable_models host port rest_api_port rest_api_timeout_in_ms grpc_max_threads "
        "grpc_front_end file_system_poll_wait_seconds enable_model_warmup"
    )
    config = ServerConfig(
        **{name: getattr(args, name) for name in names.split()},
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


def _add_boolean(parser: argparse.ArgumentParser, name: str, *, default: bool | None, text: str) -> None:
    """Adds a flag as tensorflow_model_server reads it: alone, or with `=true` or `=false`."""
    said = {True: " (default true)", False: " (default false)"}.get(default, "") if default is not None else ""
    parser.add_argument(
        name, type=_boolean, nargs="?", const=True, default=default, metavar="true|false", help=text + said
    )


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return values[text.lower()]
