"""Helpers of the serving tests."""

from __future__ import annotations

import argparse
import importlib
import shutil
import time
from pathlib import Path

from serving.server import Server, ServerConfig


def start_server(folder: Path, **settings) -> Server:
    server = Server(ServerConfig(model_base_path=folder, port=0, rest_api_port=0, **settings))
    server.start()
    return server


def copy_version(source: Path, folder: Path, version: int) -> Path:
    """Adds a version the way an export does: whole, by a rename."""
    temporary = folder / f".tmp-{version}"
    shutil.copytree(source, temporary)
    return temporary.rename(folder / str(version))


def eventually(condition, *, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def run_command(name: str, *arguments: object) -> int:
    """Runs `tfpipe NAME ARGUMENTS` in this process."""
    command = importlib.import_module(f"tfpipe.commands.{name}")
    parser = argparse.ArgumentParser(prog=name)
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))
