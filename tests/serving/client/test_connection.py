"""The connection tries again while no server answers, and says so."""

import socket
import threading
import time
from concurrent import futures

import grpc
import pytest

from serving.client import connection
from serving.client.connection import ClientTls, Connection, ServerFailedError, ServerUnavailableError
from serving.protocol import protos
from serving.protocol.names import MODEL_SERVICE
from tfpipe.errors import UsageError

METHOD = f"/{MODEL_SERVICE}/GetModelStatus"


def ask(target, **options):
    opened = Connection(target, **{"timeout_s": 30.0, "on_wait": None, "tls": None, **options})
    try:
        return opened.method(METHOD, protos.GetModelStatusResponse.FromString)(protos.GetModelStatusRequest())
    finally:
        opened.close()


def serve(port, answer):
    """Starts a server that answers `METHOD` with `answer(context)`."""
    handler = grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(MODEL_SERVICE, {"GetModelStatus": handler})])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def test_a_call_waits_for_a_server_that_starts_late():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    started = []

    def start():
        time.sleep(0.3)
        started.append(serve(port, lambda context: b"")[0])

    starter = threading.Thread(target=start)
    starter.start()
    try:
        assert not ask(f"127.0.0.1:{port}").model_version_status
    finally:
        starter.join()
        started[0].stop(None)


def test_waiting_is_announced_once_and_ends_at_the_deadline(monkeypatch):
    monkeypatch.setattr(connection, "_QUIET_S", 0.1)
    said: list[str] = []
    with pytest.raises(ServerUnavailableError, match=r"no answer within 0\.5 s .*; is a server running there\?"):
        ask("127.0.0.1:1", timeout_s=0.5, on_wait=said.append)
    assert said == ["127.0.0.1:1: no answer yet; trying for 0.5 s"]


def test_an_internal_error_is_not_tried_again():
    tries = []

    def fail(context):
        tries.append(context)
        context.abort(grpc.StatusCode.INTERNAL, "broken\n  down")

    server, port = serve(0, fail)
    try:
        with pytest.raises(ServerFailedError, match="INTERNAL: broken down"):
            ask(f"127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert len(tries) == 1


def test_a_certificate_needs_its_key(tmp_path):
    with pytest.raises(UsageError, match="give both or neither"):
        ask("127.0.0.1:1", tls=ClientTls(ca=tmp_path / "ca.pem", cert=tmp_path / "cert.pem"))
