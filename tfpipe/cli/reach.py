"""Tells within seconds that no server listens at an address, where gRPC would go on trying until its deadline."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import time

from tfpipe.errors import ServingError, UsageError

WAIT_S = 5.0
_BETWEEN_TRIES_S, _CONNECT_S, _QUIET_S = 0.25, 2.0, 2.0
_HOST_PORT = re.compile(r"(?:dns:///|ipv4:|ipv6:)?\[?([^\[\]/]+?)\]?:(\d{1,5})")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--wait-s`."""
    parser.add_argument(
        "--wait-s",
        type=float,
        default=WAIT_S,
        metavar="S",
        help="wait this long for a server that is starting, in s (default %(default)g)",
    )


def require_listening(address: str, *, wait_s: float) -> None:
    """Waits until something listens at an address; returns at once where only gRPC can tell.

    Args:
        address: `HOST:PORT` or `unix:PATH`.
        wait_s: how long to wait for a server that is starting, in s.

    Raises:
        ServingError: nothing listens there.
        UsageError: the address has no port.
    """
    if ":" not in address:
        raise UsageError(f"{address}: has no port; use HOST:PORT, such as {address or 'localhost'}:8500")
    give_up, announced = time.monotonic() + wait_s, wait_s < _QUIET_S
    while problem := _problem(address):
        if not time.monotonic() + _BETWEEN_TRIES_S <= give_up:  # also if a number is not one
            raise ServingError(
                f"{address}: {problem}; start it with `tfpipe serve --model_base_path models/vae`, check the address, "
                "or wait longer for one that is starting with --wait-s 60"
            )
        if not announced:
            print(f"{address}: {problem} yet; trying for {wait_s:g} s", file=sys.stderr, flush=True)
            announced = True
        time.sleep(_BETWEEN_TRIES_S)


def _problem(address: str) -> str:
    """Returns why nothing listens at an address; an empty text if something does, or if that cannot be seen here."""
    found = _HOST_PORT.fullmatch(address)
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as unix:
                unix.connect(address.removeprefix("unix:").removeprefix("//"))
        elif found and not _through_proxy(found[1]):
            socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_S).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return "no server listens there"
    except socket.gaierror:
        return "no host has this name"
    except (OSError, OverflowError, UnicodeError):
        return ""
    return ""


def _through_proxy(host: str) -> bool:
    """Tells whether gRPC reaches a host through a proxy, so that this process need not reach it directly."""
    if not any(os.environ.get(name) for name in _PROXIES):
        return False
    from urllib.request import proxy_bypass

    return not proxy_bypass(host)
