"""Room for others: clients that send half a request, or read no answer, do not take it from those who do."""

import contextlib
import errno
import http.client
import json
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from http2_frames import HEADERS, PREFACE, SETTINGS, connection, ends_call, frame, frames, header_block, text_of
from quick_server import ROW, quick_server
from serving_tools import eventually, peak_mib

from serving.protocol import protos
from serving.protocol.names import METRICS_PATH, PREDICT, RELOAD
from serving.server.config import Limits
from serving.server.grpc import python_server
from serving.server.grpc.native_server import is_built
from serving.server.models import catalog
from serving.server.rest import http_server


@pytest.fixture(params=["native", "python"])
def front_end(request):
    if request.param == "native" and not is_built():
        pytest.skip("the native front end is not built; install Rust and run scripts/setup")
    return request.param


def headers_alone(port, *, streams):
    """Opens a connection with calls of which only the headers come."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    raw.sendall(PREFACE + frame(SETTINGS, 0, 0))
    raw.sendall(b"".join(frame(HEADERS, 4, 2 * number + 1, header_block()) for number in range(streams)))
    return raw


def is_healthy(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        ask = channel.unary_unary(
            "/grpc.health.v1.Health/Check", response_deserializer=protos.HealthCheckResponse.FromString
        )
        return ask(protos.HealthCheckRequest().SerializeToString(), timeout=10).status == 1


def test_calls_that_never_arrive_take_no_thread(tmp_path, monkeypatch, front_end):
    """One connection with 250 calls of which only headers came; there are 136 threads."""
    with (
        quick_server(tmp_path, monkeypatch, grpc_front_end=front_end) as (server, caller),
        headers_alone(server.port, streams=250),
    ):
        time.sleep(0.5)
        assert is_healthy(server.port)
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)


@pytest.mark.parametrize(("flags", "why"), [(4, b"too slowly"), (5, b"before its message was whole")])
def test_a_call_that_does_not_arrive_is_ended_in_python(tmp_path, monkeypatch, flags, why):
    monkeypatch.setattr(python_server, "ARRIVAL_S", 0.3)
    call = frame(HEADERS, flags, 1, header_block())
    with (
        quick_server(tmp_path, monkeypatch, grpc_front_end="python") as (server, _),
        connection(server.port, call) as raw,
    ):
        answered = frames(raw, lambda one: one[2] == 1 and ends_call(one))
        assert any(why in text_of(data) for kind, _, stream, data in answered if (kind, stream) == (HEADERS, 1))


@pytest.mark.skipif(not is_built(), reason="the native front end is not built")
def test_open_calls_of_few_connections_leave_room_for_others(tmp_path, monkeypatch):
    with (
        quick_server(tmp_path, monkeypatch, grpc_front_end="native") as (server, caller),
        contextlib.ExitStack() as opened,
    ):
        for _ in range(9):
            opened.enter_context(headers_alone(server.port, streams=950))
        eventually(lambda: server._grpc.native.held()[0] >= 8192)
        assert is_healthy(server.port)
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)


def test_many_reloads_leave_threads_for_others(tmp_path, monkeypatch, front_end):
    freed = threading.Event()
    with quick_server(tmp_path, monkeypatch, grpc_front_end=front_end, allow_reload=True) as (server, caller):
        monkeypatch.setattr(catalog.Catalog, "replace", lambda *_: freed.wait(30))
        request = protos.ReloadConfigRequest()
        request.config.model_config_list.config.add(name="a", base_path="/a", model_platform="tensorflow")
        ask = caller.channel.unary_unary(RELOAD)
        asked = [ask.future(request.SerializeToString(), timeout=60) for _ in range(140)]
        try:
            assert is_healthy(server.port)
            np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)
        finally:
            freed.set()
        codes = [one.code().name for one in asked]
        assert set(codes) == {"OK", "UNAVAILABLE"}
        assert codes.count("OK") <= 3 + codes.count("UNAVAILABLE")


def repeated(count):
    """Returns a request of few bytes whose tensor repeats one value `count` times."""
    request = protos.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "vae", "any"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.float_val.append(1.0)
    tensor.tensor_shape.dim.add(size=count)
    return request.SerializeToString()


def test_requests_are_counted_as_what_they_become(tmp_path, monkeypatch, front_end):
    limits = Limits(message_bytes=16 << 20, rows=1 << 30, concurrent_runs=1)
    with quick_server(tmp_path, monkeypatch, grpc_front_end=front_end, limits=limits) as (server, caller):
        held = threading.Event()
        with server.catalog.use("vae") as model:
            model.signatures["any"]._run = lambda inputs: (held.wait(20), {"y": inputs["x"][:1]})[1]
            model.signatures["any"].has_rows = False
        raw = caller.channel.unary_unary(PREDICT)
        before = peak_mib(reset=True)
        asked = [raw.future(repeated(4 << 20), timeout=60) for _ in range(20)]
        try:
            eventually(lambda: sum(one.done() for one in asked) >= 16)
        finally:
            held.set()
        codes = [one.code().name for one in asked]
        grown = peak_mib() - before
    assert (codes.count("OK"), codes.count("UNAVAILABLE")) == (4, 16), codes
    assert grown < 120, f"{grown} MiB"


def rest(port, method="GET", path="/v1/models/vae", body=None, timeout=10):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def slow_post(port, *, length=1000, sent=b""):
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    raw.sendall(b"POST /v1/models/vae:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + sent)
    return raw


def test_slow_rest_connections_leave_room_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "_MAX_CONNECTIONS", 50)
    settings = {"metrics_path": METRICS_PATH, "grpc_front_end": "python"}
    with quick_server(tmp_path, monkeypatch, **settings) as (server, _), contextlib.ExitStack() as opened:
        for _ in range(120):
            opened.enter_context(slow_post(server.rest_port))
        assert rest(server.rest_port)[0] == 200
        assert rest(server.rest_port, path=METRICS_PATH)[0] == 200
        body = json.dumps({"signature_name": "double", "instances": ROW.tolist()})
        assert rest(server.rest_port, "POST", "/v1/models/vae:predict", body)[0] == 200
        assert len(server._rest._server.active_channels) <= 50


def test_a_process_without_files_closes_a_slow_connection_and_does_not_spin(tmp_path, monkeypatch):
    with (
        quick_server(tmp_path, monkeypatch, grpc_front_end="python") as (server, _),
        slow_post(server.rest_port) as slow,
    ):
        slow.settimeout(10)
        http, failures = server._rest._server, [OSError(errno.EMFILE, "Too many open files")]
        eventually(lambda: http.active_channels)
        accept = http.accept

        def failing():
            if failures:
                raise failures.pop()
            return accept()

        monkeypatch.setattr(http, "accept", failing)
        assert rest(server.rest_port)[0] == 200
        with contextlib.suppress(ConnectionResetError):  # it is closed in this way if bytes of it were not read
            assert slow.recv(1000) == b""


def test_rest_requests_that_do_not_arrive_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(http_server, "_LOOK_S", 0.2)
    with (
        quick_server(tmp_path, monkeypatch, grpc_front_end="python") as (server, _),
        slow_post(server.rest_port) as late,
        socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as idle,
    ):
        late.settimeout(10)
        assert b"408" in late.recv(1000)
        assert idle.recv(1000) == b""


def test_unfinished_rest_bodies_are_bounded_and_never_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("a body was written to the disk"))
    limits = Limits(json_bytes=2 << 20)
    with quick_server(tmp_path, monkeypatch, limits=limits, grpc_front_end="python") as (server, _):
        with contextlib.ExitStack() as opened:
            for _ in range(12):
                with contextlib.suppress(ConnectionError):
                    opened.enter_context(slow_post(server.rest_port, length=2_000_000, sent=bytes(1_999_990)))
            http = server._rest._server
            eventually(lambda: 0 < http.body_bytes <= http.max_body_bytes)
            assert http.max_body_bytes == 8 << 20
            assert rest(server.rest_port)[0] == 200
        eventually(lambda: http.body_bytes == 0)


def test_rest_answers_that_nobody_reads_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(http_server, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(http_server, "_LOOK_S", 0.2)
    with quick_server(tmp_path, monkeypatch, grpc_front_end="python") as (server, _):
        http = server._rest._server
        assert http.has_room(http._unread_bytes + 1), "a single answer may be larger"
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.rest_port))
        with raw:
            # Many answers of which none is read.
            raw.sendall(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 60_000) * 20)
            eventually(lambda: not http.active_channels)


def test_two_lengths_end_the_connection(tmp_path, monkeypatch):
    with quick_server(tmp_path, monkeypatch, grpc_front_end="python") as (server, _):
        for version, more in ((b"1.1", b"Content-Length: 3\r\n"), (b"1.0", b"Connection: keep-alive\r\n")):
            with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as raw:
                head = b"GET /v1/models/vae HTTP/" + version + b"\r\nHost: a\r\n" + more
                raw.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
                data = b""
                while part := raw.recv(65_536):
                    data += part
                assert b"200 OK" in data


def test_a_panic_does_not_end_the_servers_threads(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    if not is_built():
        pytest.skip("the native front end is not built")
    with quick_server(tmp_path, monkeypatch, grpc_front_end="native") as (server, caller):
        api = server._grpc._api
        answer, panics = api.predict_batch, [PanicException() for _ in range(20)]

        def panicking(*arguments, **options):
            if panics:
                raise panics.pop()
            return answer(*arguments, **options)

        monkeypatch.setattr(api, "predict_batch", panicking)
        caller.predict("double", x=ROW, timeout=10)
        eventually(lambda: not server._grpc._calls)  # from here on, such requests come as batches
        for _ in range(20):  # there are 16 threads for batches
            assert caller.refusal("double", x=ROW, timeout=10)[0] == "INTERNAL"
        np.testing.assert_array_equal(caller.predict("double", x=ROW, timeout=10)["y"], 2 * ROW)
