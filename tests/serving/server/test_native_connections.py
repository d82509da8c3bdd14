"""The native server's connections: broken calls, silent clients, and bounds on memory and connections."""

import contextlib
import socket
import struct
import time

import grpc
import numpy as np
import pytest
from http2_frames import (
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    connection,
    ends_call,
    frame,
    frames,
    header_block,
    prefixed,
    text_of,
)
from serving_tools import ROWS, Caller, eventually, native, native_grpc, peak_mib, start_server

from serving.protocol import protos
from serving.server.config import Limits
from serving.server.grpc import native_server


@native
@pytest.mark.parametrize(
    ("block", "body", "says"),
    [
        (header_block(), prefixed(b"", length=1 << 31), b"larger than max"),
        (header_block(), prefixed(b"abc", length=2), b"More than one message"),
        (header_block(), prefixed(b"abc") + prefixed(b"abc"), b"More than one message"),
        (header_block(), prefixed(b"abc", length=9), b"ended before"),
        (header_block(), b"\0\0", b"ended before"),
        (header_block(), b"", b"ended before"),
        (header_block(), prefixed(b"abc", flag=7), b"does not say"),
        (header_block(), prefixed(b"abc", flag=1), b"Compression"),
        (header_block(extra=[(b"grpc-encoding", b"lzma")]), prefixed(b"abc", flag=1), b"Compression"),
        (header_block(extra=[(b"grpc-encoding", b"gzip")]), prefixed(b"abc", flag=1), b"unpacked"),
        (header_block(extra=[(b"grpc-timeout", b"soon")]), prefixed(b"abc"), b"time"),
        (header_block(extra=[(b"grpc-timeout", b"1n")]), prefixed(ROWS), b"deadline"),
        (header_block(extra=[(b"grpc-timeout", b"99999999H")]), prefixed(b"\xff"), b"not a message"),
        (header_block(kind=b"text/html"), prefixed(b"abc"), b"415"),
        (header_block(method=b"\x82"), b"", b"405"),
    ],
)
def test_invalid_calls_are_refused(native_server, block, body, says):
    data = frame(HEADERS, 4, 1, block) + frame(DATA, 1, 1, body)
    with connection(native_server.port, data) as raw:
        answered = frames(raw, lambda one: one[2] == 1 and ends_call(one))
    [head] = [payload for kind, _, stream, payload in answered if (kind, stream) == (HEADERS, 1)]
    assert says in text_of(head), head
    assert RST_STREAM not in {kind for kind, *_ in answered}


@native
def test_invalid_connections_end_and_disturb_nobody(native_server, native_caller):
    rng = np.random.default_rng(0)
    endless = frame(HEADERS, 0, 1, header_block()) + b"".join(frame(9, 0, 1, b"\x00" * 8000) for _ in range(200))
    resets = b"".join(
        frame(HEADERS, 5, s, header_block()) + frame(RST_STREAM, 0, s, bytes(4)) for s in range(1, 6001, 2)
    )
    pings, settings_ = frame(PING, 0, 0, bytes(8)) * 3000, frame(SETTINGS, 0, 0) * 3000
    for data in (
        endless,
        resets,
        pings,
        settings_,
        frame(DATA, 0, 5, b"x"),
        frame(GOAWAY, 0, 0, bytes(8)),
        rng.bytes(5000),
    ):
        with connection(native_server.port) as raw, contextlib.suppress(OSError):
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(native_caller.predict("double", x=x)["y"], 2 * x)
    eventually(lambda: native_grpc(native_server).native.held() == (0, 0, 0))


@native
@pytest.mark.parametrize(
    "window", [pytest.param(0, id="no window", marks=pytest.mark.slow), pytest.param((1 << 31) - 1, id="no reading")]
)
def test_unread_answers_are_dropped(exported, monkeypatch, window):
    """A client that allows no bytes (HTTP/2 window of 0), or allows all and reads nothing, loses its answers."""
    monkeypatch.setattr(native_server, "UNREAD_TIMEOUT_S", 2.0)
    limits = Limits(message_bytes=8 << 20, open_requests=64)
    server = start_server(exported.path.parent, limits=limits, grpc_front_end="native", enable_model_warmup=False)
    z = np.zeros((64, 8), np.float32)
    try:
        with Caller(server.port) as caller, contextlib.ExitStack() as stack:
            message = caller.request("decode", z=z).SerializeToString()
            call = frame(HEADERS, 4, 1, header_block()) + frame(DATA, 1, 1, prefixed(message))
            settings_ = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window))
            wider = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65_535)) if window else b""
            caller.predict("decode", z=z)
            before = peak_mib(reset=True)
            for _ in range(16):  # each answer has 7 MB, and the server may hold four of them
                raw = socket.socket()
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                raw.connect(("127.0.0.1", server.port))
                stack.enter_context(raw)
                raw.sendall(PREFACE + settings_ + wider + call)
            eventually(lambda: native_grpc(server).native.held()[2] > 24 << 20)
            assert caller.refusal("decode", z=z)[0] == "UNAVAILABLE"
            request_ = protos.HealthCheckRequest()
            health = caller.channel.unary_unary("/grpc.health.v1.Health/Check")
            assert health(request_.SerializeToString(), timeout=20), "small answers need no free memory"
            grown = peak_mib() - before
            time.sleep(2.2)

            def answered():
                try:
                    return len(caller.predict("decode", z=z)["mel"]) == 64
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    return False

            eventually(answered, timeout=20)
    finally:
        server.stop(grace_s=5)
    assert grown < 100, f"{grown} MiB"


@native
def test_requests_that_never_arrive_completely_are_dropped(toy, monkeypatch):
    """Clients send all but the end of large messages; their memory is freed once others need it."""
    monkeypatch.setattr(native_server, "UNREAD_TIMEOUT_S", 1.0)
    server = start_server(toy, limits=Limits(message_bytes=1 << 20), grpc_front_end="native")
    x = np.ones((1, 3), np.float32)
    try:
        with Caller(server.port) as caller, contextlib.ExitStack() as stack:
            most = prefixed(bytes((1 << 20) - 50), length=1 << 20)
            parts = b"".join(frame(DATA, 0, 1, most[at : at + 16_000]) for at in range(0, len(most), 16_000))
            for _ in range(4):
                stack.enter_context(connection(server.port, frame(HEADERS, 4, 1, header_block()) + parts))
            eventually(lambda: native_grpc(server).native.held()[1] > 4_100_000)
            np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
            large = np.ones((20_000, 3), np.float32)
            assert caller.refusal("double", x=large)[0] == "UNAVAILABLE"
            time.sleep(1.2)

            def is_answered():
                with contextlib.suppress(grpc.RpcError):
                    return len(caller.predict("double", x=large)["y"]) == len(large)
                return False

            eventually(is_answered)
    finally:
        server.stop(grace_s=5)


@native
def test_idle_connections_are_closed_when_others_need_their_place(toy, monkeypatch):
    """So are connections whose clients never read their answers."""
    monkeypatch.setattr(native_server, "UNREAD_TIMEOUT_S", 1.0)
    server = start_server(toy, grpc_front_end="native")
    unknown = header_block(path="/" + "x" * 100)
    try:
        with contextlib.ExitStack() as stack:
            idle = stack.enter_context(connection(server.port))
            unread = socket.socket()
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            unread.connect(("127.0.0.1", server.port))
            stack.enter_context(unread).settimeout(20)
            unread.sendall(PREFACE + frame(SETTINGS, 0, 0))
            # More answers than the socket's buffer holds, but fewer calls than a connection may have.
            for stream in range(1, 1981, 2):
                unread.sendall(frame(HEADERS, 4, stream, unknown) + frame(DATA, 1, stream, prefixed(b"")))
            # Connections without a handshake would make room at once.
            silent = [stack.enter_context(connection(server.port)) for _ in range(998)]
            eventually(lambda: native_grpc(server).native.held()[0] == 0)

            def is_closed(raw):
                raw.settimeout(0.5)
                try:
                    while raw.recv(65_536):
                        pass
                except TimeoutError:
                    return False
                except OSError:
                    pass
                return True

            def is_refused():
                with socket.create_connection(("127.0.0.1", server.port)) as another:
                    return is_closed(another)

            assert is_refused(), "all places are taken"
            time.sleep(1.2)
            is_refused()
            assert is_closed(idle)
            assert is_closed(unread)
            with Caller(server.port) as caller:
                x = np.ones((1, 3), np.float32)
                np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
            assert len(silent) == 998
    finally:
        server.stop(grace_s=5)


@native
def test_memory_of_arriving_requests_is_bounded(toy):
    """Only bytes that were sent take memory, and they are freed when their client disconnects."""
    limits = Limits(message_bytes=1 << 20)
    server = start_server(toy, limits=limits, grpc_front_end="native")
    try:
        half = prefixed(bytes(900_000), length=1 << 20)
        parts = [half[at : at + 16_000] for at in range(0, len(half), 16_000)]
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                raw = stack.enter_context(connection(server.port))
                for stream in (1, 3, 5):
                    with contextlib.suppress(OSError):
                        raw.sendall(frame(HEADERS, 4, stream, header_block()))
                        raw.sendall(b"".join(frame(DATA, 0, stream, part) for part in parts))
            eventually(lambda: native_grpc(server).native.held()[0] == 4)
            assert native_grpc(server).native.held()[1] <= 4 << 20
        eventually(lambda: native_grpc(server).native.held() == (0, 0, 0))
    finally:
        server.stop(grace_s=5)
