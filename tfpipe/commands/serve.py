"""`tfpipe serve`: the embedded server, with the flags of tensorflow_model_server."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from tfpipe import __version__
from tfpipe.cli.arguments import IGNORED
from tfpipe.cli.examples import add_examples
from tfpipe.cli.options import add_settings, given, truth
from tfpipe.cli.parser import REQUIRED

if TYPE_CHECKING:
    from serving.server.server import Server

_LOG = logging.getLogger(__name__)
_EPILOG = (
    "All flags of tensorflow_model_server are accepted; 'stock' above says how it differs. These flags change nothing "
    "here, and the log says so: {}. Unknown flags are ignored in the same way."
)

HELP = "serve an exported model over the TensorFlow Serving API (gRPC and REST)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of tensorflow_model_server, and a few of this server's own."""
    from serving.server.config import IGNORED_FLAGS, ConfigFiles, ModelConfig, ServerConfig

    of_models = {field.name for field in dataclasses.fields(ModelConfig)}
    # argparse does not require the folder, because --model_config_file can take its place.
    required = parser.add_argument_group(REQUIRED)
    add_settings(required, ServerConfig, only=("model_base_path",), server_style=True)
    add_settings(parser, ServerConfig, leave_out={*of_models, "model_base_path"}, server_style=True)
    add_settings(parser, ConfigFiles, server_style=True)
    add_settings(parser, ModelConfig, server_style=True)
    add = parser.add_argument
    on: dict[str, Any] = {"nargs": "?", "const": True, "type": truth}
    for name, kind in IGNORED_FLAGS.items():
        how = on if kind is bool else {"type": kind}
        add(f"--{name}", dest=f"ignored.{name}", help=argparse.SUPPRESS, **how)
    add(IGNORED, dest="unknown_flags", action="append", default=[], help=argparse.SUPPRESS)
    parser.epilog = _EPILOG.format(", ".join(f"--{name}" for name in IGNORED_FLAGS))
    add_examples(
        parser,
        "tfpipe serve --model_base_path models/vae",
        "tfpipe serve --model_base_path models/vae --port 9000 --rest_api_port -1",
        "tfpipe serve --model_config_file models.config --model_config_file_poll_wait_seconds 5",
        "tfpipe serve --model_base_path models/vae --auth_token_file token.txt",
        "tfpipe serve --model_base_path models/vae --host 0.0.0.0 --ssl_config_file ssl.config",
    )
    add("--version", metavar="true|false", help="print the versions of server and TensorFlow, and end", **on)
    add("--log_format", choices=("text", "json"), default="text", help="format of the log lines (default %(default)s)")
    add("--json", action="store_true", help="print one JSON object with the ports when ready")


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; with `--version`, prints the versions only.

    Raises:
        UsageError: flags that do not go together.
        ServingError: a configuration file is wrong, or a port or folder cannot be used.
    """
    from serving.server.config import ConfigFiles, ServerConfig
    from serving.server.metrics import configure_logging

    if args.version:
        print(f"TensorFlow ModelServer: tfpipe {__version__}\nTensorFlow Library: {_tensorflow_version()}")
        return 0
    from serving.server.server import serve

    configure_logging(args.log_format)
    if ignored := _ignored(args):
        _LOG.warning("these flags change nothing here and are ignored: %s", ", ".join(ignored))
    config = ServerConfig(**given(args, ServerConfig), **ConfigFiles(**given(args, ConfigFiles)).read())
    serve(config, on_ready=lambda server: _say_ready(server, as_json=args.json))
    return 0


def _ignored(args: argparse.Namespace) -> list[str]:
    """Returns the flags that were typed and change nothing; of those that are unknown, the log says so."""
    from serving.server.config import IGNORED_FLAGS

    stock = [f"--{name}" for name in IGNORED_FLAGS if getattr(args, f"ignored.{name}") is not None]
    unknown = dict.fromkeys(ascii(flag.partition("=")[0])[1:-1] for flag in args.unknown_flags)
    return stock + [f"{name} (unknown)" for name in unknown]


def _tensorflow_version() -> str:
    """Returns the version of TensorFlow, without its import, which takes seconds."""
    from tfpipe.lanes import installed_version

    names = ("tensorflow", "tensorflow-cpu", "tf-nightly")
    return next(filter(None, map(installed_version, names)), "not installed")


def _say_ready(server: Server, *, as_json: bool) -> None:
    config, models = server.config, server.catalog.versions()
    from serving.server.server import in_address

    host = in_address(config.host)
    rest = f", REST {host}:{server.rest_port}" if server.rest_port else ""
    rest += f", gRPC unix:{config.grpc_socket_path}" if config.grpc_socket_path else ""
    which = "; ".join(
        f"model {name if name.isprintable() else ascii(name)}, "
        + (f"version {', '.join(map(str, versions))}" if versions else "no version yet")
        for name, versions in models.items()
    )
    print(f"ready: {which or 'no model'}, gRPC {host}:{server.port}{rest}", file=sys.stderr, flush=True)
    if as_json:
        ports = {"port": server.port, "rest_api_port": server.rest_port}
        first = next(iter(models), None)
        print(json.dumps({"model": first, "versions": server.versions, **ports, "models": models}), flush=True)
