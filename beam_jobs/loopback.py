"""Keeps the ports of Beam's local runner on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc

_ALL_ADDRESSES = "[::]:"


@contextlib.contextmanager
def ports_on_loopback() -> Iterator[None]:
    """Makes gRPC servers that would listen on all addresses listen on loopback, if they are made in this block.

    With several workers, Beam's local runner opens about six ports without asking who connects, and one of them hands
    out any file that this process can read. Its addresses cannot be set. The workers connect to `localhost`. So do
    Flink and Spark in LOOPBACK mode, where the work is done in this process.
    """
    make = grpc.server

    def server(*arguments: Any, **settings: Any) -> Any:
        made = make(*arguments, **settings)
        listen = made.add_insecure_port

        def listen_locally(address: str) -> int:
            port: int = listen(address.replace(_ALL_ADDRESSES, "localhost:", 1))
            return port

        made.add_insecure_port = listen_locally
        return made

    grpc.server = server
    try:
        yield
    finally:
        grpc.server = make
