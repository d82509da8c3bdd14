"""Servers that are reachable from this machine alone."""

import socket
from concurrent import futures

import grpc
import pytest

from beam_jobs.loopback import ports_on_loopback


def test_servers_for_all_addresses_listen_locally_alone():
    make = grpc.server
    with ports_on_loopback():
        made = grpc.server(futures.ThreadPoolExecutor(1))
        port = made.add_insecure_port("[::]:0")
        made.start()
    assert grpc.server is make
    try:
        grpc.channel_ready_future(grpc.insecure_channel(f"localhost:{port}")).result(timeout=30)
        with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass
    finally:
        made.stop(0)
