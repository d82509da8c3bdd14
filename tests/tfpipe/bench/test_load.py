"""The compiled load generator against a server that answers at once."""

from concurrent import futures

import grpc
import pytest

_load = pytest.importorskip("tfpipe.bench._load", reason="the compiled load generator is not built; install Rust")


@pytest.fixture(scope="module")
def address():
    """A server whose method `/tests.Echo/Twice` answers with the request twice."""
    twice = grpc.unary_unary_rpc_method_handler(lambda request, _: 2 * request)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tests.Echo", {"Twice": twice})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_every_request_is_sent_as_often_as_asked(address):
    assert _load.load(address, "/tests.Echo/Twice", [b"x" * 1000] * 8, times=50, answer_bytes=2000) == 400


@pytest.mark.parametrize(("path", "answer_bytes"), [("/tests.Echo/Twice", 1999), ("/tests.Echo/Nothing", 2000)])
def test_an_answer_of_another_length_and_an_error_are_refused(address, path, answer_bytes):
    with pytest.raises(ConnectionError, match="bytes"):
        _load.load(address, path, [b"x" * 1000], times=1, answer_bytes=answer_bytes)


def test_a_server_that_is_not_there_is_an_error():
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        _load.load("127.0.0.1:1", "/tests.Echo/Twice", [b"x"], times=1, answer_bytes=2)
