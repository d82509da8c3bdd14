"""A server that asks for a token: on gRPC and REST, with health open to everyone."""

import contextlib
import http.client
import json
import logging
import re
import socket

import grpc
import pytest
from quick_server import ROW, quick_server
from serving_tools import eventually, native, native_grpc, run_command

from serving.checks.probe import Asker, Target
from serving.client.client import Client
from serving.client.connection import RequestRefusedError
from serving.protocol import protos
from serving.protocol.names import HEALTH_SERVICE, METRICS_PATH, MODEL_SERVICE
from serving.protocol.token import NO_TOKEN, Token
from serving.server.config import ServerConfig
from serving.server.grpc.native_server import is_built
from serving.server.server import _is_loopback
from tfpipe.errors import UsageError

GOOD, BAD = "correct-horse", "battery-staple"


@pytest.fixture(params=["native", "python"])
def served(request, tmp_path, monkeypatch):
    """A server with a token, and the address of its gRPC API, for each front end."""
    if request.param == "native" and not is_built():
        pytest.skip("the native front end is not built")
    settings = {"token": Token(GOOD), "metrics_path": METRICS_PATH, "grpc_front_end": request.param}
    with quick_server(tmp_path, monkeypatch, **settings) as (server, caller):
        yield server, caller


def get(server, path, *, verb="GET", token=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    with contextlib.closing(connection):
        connection.request(verb, path, body, {"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.getheader("WWW-Authenticate"), response.read()


def test_grpc_answers_only_clients_that_send_the_token(served):
    server, caller = served
    assert caller.refusal("double", x=ROW) == ("UNAUTHENTICATED", NO_TOKEN)
    for token, answered in ((GOOD, True), (BAD, False), (None, False)):
        with Client(server.address, token=token) as client:
            if answered:
                assert client._run("double", {"x": ROW})["y"].tolist() == (2 * ROW).tolist()
                assert client.status()[0].state == "AVAILABLE"
            else:
                with pytest.raises(RequestRefusedError, match=r"UNAUTHENTICATED.*--token-file"):
                    client._run("double", {"x": ROW})


def test_health_of_grpc_needs_no_token(served):
    _, caller = served
    ask = caller.channel.unary_unary(
        f"/{HEALTH_SERVICE}/Check", response_deserializer=protos.HealthCheckResponse.FromString
    )
    assert ask(b"", timeout=30).status == 1
    unknown = caller.channel.unary_unary("/no.Such/Method")
    with pytest.raises(grpc.RpcError) as info:
        unknown(b"", timeout=30)
    # grpcio refuses a method that it does not know before it looks at the token.
    assert info.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)


def test_rest_answers_only_clients_that_send_the_token(served):
    server, _ = served
    body = json.dumps({"signature_name": "double", "instances": [[1, 2, 3]]})
    for path, verb in (("/", "GET"), (METRICS_PATH, "GET"), ("/openapi.json", "GET"), ("/v1/models/vae", "GET")):
        assert get(server, path, verb=verb, token=GOOD)[0] == 200
        for token in (None, BAD):
            status, how, answer = get(server, path, verb=verb, token=token)
            assert (status, how, json.loads(answer)) == (401, "Bearer", {"error": f"Unauthorized: {NO_TOKEN}"})
    assert get(server, "/v1/models/vae:predict", verb="POST", body=body, token=GOOD)[0] == 200
    assert get(server, "/v1/models/vae:predict", verb="POST", body=body)[0] == 401
    for path in ("/healthz", "/readyz"):
        assert get(server, path)[:2] == (200, None)
        assert get(server, path, verb="POST", body=body)[0] == 401
    assert get(server, "//healthz")[0] == 401


@pytest.mark.parametrize("more", ["", "Expect: 100-continue\r\n"])
def test_rest_does_not_wait_for_the_body_of_a_client_without_the_token(served, more):
    server, _ = served
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        head = f"POST /v1/models/vae:predict HTTP/1.1\r\nHost: x\r\n{more}Content-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("front_end", [pytest.param("native", marks=native), "python"])
def test_requests_without_the_token_are_counted(front_end, tmp_path, monkeypatch):
    settings = {"token": Token(GOOD), "metrics_path": METRICS_PATH, "grpc_front_end": front_end}

    def counted():
        found = re.search(rb'status="UNAUTHENTICATED"} (\d+)', get(server, METRICS_PATH, token=GOOD)[2])
        return int(found[1]) if found else 0

    with quick_server(tmp_path, monkeypatch, **settings) as (server, caller):
        assert counted() == 0
        assert caller.refusal("double", x=ROW)[0] == "UNAUTHENTICATED"
        eventually(lambda: counted() == 1)
        assert get(server, "/v1/models/vae", token=BAD)[0] == 401
        assert get(server, "/healthz", token=BAD)[0] == 200
        assert counted() == 2
        if front_end == "native":
            assert native_grpc(server).native.held()[0] == 0


def test_the_commands_read_the_token_from_a_file(served, tmp_path, monkeypatch, capsys):
    server, _ = served
    path = tmp_path / "token"
    path.write_text(GOOD + "\n")
    path.chmod(0o600)
    where = ["client", "status", "--server", server.address, "--json"]
    run_command(*where, "--token-file", path)
    assert '"AVAILABLE"' in capsys.readouterr().out
    with pytest.raises(RequestRefusedError, match="UNAUTHENTICATED"):
        run_command(*where)
    monkeypatch.setenv("TFPIPE_AUTH_TOKEN", GOOD)
    run_command(*where)
    with pytest.raises(UsageError, match="a token has"):
        Client(server.address, token="two words")


def test_the_checks_of_a_server_send_the_token(served):
    server, _ = served
    asker = Asker(Target(grpc=server.address, rest=f"127.0.0.1:{server.rest_port}", token=GOOD))
    with contextlib.closing(asker.channel):
        assert asker.rest("GET", "/v1/models/vae")[0] == 200
        request = protos.GetModelStatusRequest()
        request.model_spec.name = "vae"
        assert asker.call(f"/{MODEL_SERVICE}/GetModelStatus", request, protos.GetModelStatusResponse)


def test_a_token_may_be_given_as_text_from_python():
    config = ServerConfig(model_base_path="m", token=GOOD)  # type: ignore[arg-type]
    assert config.token == Token(GOOD)
    assert GOOD not in repr(config)


def test_a_token_that_travels_in_plain_text_is_named_in_the_log(tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING), quick_server(tmp_path, monkeypatch, token=Token(GOOD), host="0.0.0.0"):
        assert "the token travels in plain text" in caplog.text
    assert [_is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [_is_loopback(host) for host in ("0.0.0.0", "::", "example.org", "")] == [False] * 4


def test_browsers_may_ask_what_they_may_do_without_the_token(tmp_path, monkeypatch):
    with quick_server(tmp_path, monkeypatch, token=Token(GOOD), rest_cors=True) as (server, _):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
        with contextlib.closing(connection):
            connection.request("OPTIONS", "/v1/models/vae:predict")
            response = connection.getresponse()
            assert response.status == 200
            assert response.getheader("Access-Control-Allow-Headers") == "Content-Type, Authorization"
