"""Memory stays bounded under hostile messages, unread answers and long JSON answers."""

import contextlib
import http.client
import json
import socket
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from serving_tools import eventually, peak_mib, serving, steps

from serving.server.config import Limits


def test_hostile_messages_take_bounded_memory(toy, front_end):
    """A message of many small parts grows when it is read: twenty times in protobuf, thirty times in JSON."""
    limits = Limits(message_bytes=4 << 20, json_bytes=2 << 20, open_requests=64)
    with serving(toy, limits=limits, grpc_front_end=front_end) as (server, caller), ThreadPoolExecutor(32) as pool:
        name = b"\n\x03vae"
        dims = b"\x12\x00" * (1_900_000)  # empty dimensions of a shape
        messages = [
            b"\n" + _varint(len(name)) + name + _field(2, _field(1, b"x") + _field(2, _field(2, dims))),
            caller.request("double", x=np.zeros((1 << 19, 3), np.float32)[: 1 << 18]).SerializeToString(),
            bytes(5 << 20),
        ]
        bodies = [b"[" * (2 << 20), b'{"instances": [' + b"{}," * 600_000 + b"{}]}", b"9" * (2 << 20), b" " * (3 << 20)]
        raw = caller.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def over_grpc(number):
            try:
                raw(messages[number % len(messages)], timeout=120)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        def over_rest(number):
            connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=120)
            try:
                connection.request("POST", "/v1/models/vae:predict", bodies[number % len(bodies)])
                return str(connection.getresponse().status)
            except ConnectionError:  # a body that is too long is refused while it is being sent
                return "413"
            finally:
                connection.close()

        before = peak_mib(reset=True)
        codes = Counter([*pool.map(over_grpc, range(33)), *pool.map(over_rest, range(32))])
        # One by one too, because there may have been no room for any of them.
        codes.update([*map(over_grpc, range(len(messages))), *map(over_rest, range(len(bodies)))])
        grown = peak_mib() - before
        assert set(codes) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "400", "413", "503"}, codes
        assert {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "400", "413"} <= set(codes), codes
        np.testing.assert_array_equal(caller.predict("double", x=steps(1))["y"], 2 * steps(1))
    assert grown < 1000, f"{grown} MiB"


@pytest.mark.slow
def test_unread_answers_are_bounded_and_dropped_in_python(exported):
    limits = Limits(message_bytes=2 << 20, open_requests=64)
    z = np.zeros((16, 8), np.float32)
    settings: dict[str, Any] = {"limits": limits, "grpc_front_end": "python", "enable_model_warmup": False}
    with serving(exported.path.parent, **settings) as (server, caller), contextlib.ExitStack() as connections:
        answer = caller._predict(caller.request("decode", z=z), timeout=60).ByteSize()
        message = caller.request("decode", z=z).SerializeToString()
        unread = server._grpc._unread
        eventually(lambda: unread._used == 0)
        before = peak_mib(reset=True)
        # 40 answers of 1.8 MB, of which the server may hold four: 8 MiB, four times its largest message.
        for _ in range(5):
            connections.enter_context(_clients_that_do_not_read(server.port, message, count=8))
        eventually(lambda: unread._used >= 4 * answer)
        assert caller.refusal("decode", z=z) == (
            "UNAVAILABLE",
            "Too many answers wait for clients that do not read them",
        )
        assert caller.predict("decode", z=z[:1])["mel"].shape[0] == 1, "small answers still fit"
        grown = peak_mib() - before
        eventually(lambda: len(unread._unread) == 4)
        unread._max_bytes = unread._used
        assert caller.refusal("decode", z=z[:1])[0] == "UNAVAILABLE"
        assert len(caller.predict("encode", mel=np.zeros((1, 128, 216), np.float32))) == 2, (
            "tiny answers need no free memory"
        )
        unread._timeout_s = 0.1

        def answered():
            try:
                return len(caller.predict("decode", z=z[:1])["mel"]) == 1
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                return False

        eventually(answered, timeout=20)
        eventually(lambda: unread._used == 0)
    assert grown < 100, f"{grown} MiB"


def test_long_json_answers_are_made_one_at_a_time_and_bounded_in_length(exported):
    limits = Limits(json_bytes=1 << 20)

    def ask(port, rows):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        body = {"signature_name": "decode", "instances": np.zeros((rows, 8)).tolist()}
        connection.request("POST", "/v1/models/vae:predict", json.dumps(body))
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, len(answer), answer[:200]

    with (
        serving(exported.path.parent, limits=limits, enable_model_warmup=False) as (server, _),
        ThreadPoolExecutor(24) as pool,
    ):
        ask(server.rest_port, 7)
        before = peak_mib(reset=True)
        answers = list(pool.map(lambda _: ask(server.rest_port, 7)[:2], range(12)))
        grown = peak_mib() - before
        assert {status for status, _ in answers} == {200}
        assert ask(server.rest_port, 10)[0] == 400
        assert b"send fewer rows, or use gRPC" in ask(server.rest_port, 10)[2]
        assert ask(server.rest_port, 1)[0] == 200
    # The clients are in this process too: each holds its answer of 4 MB for a moment. The server makes one at a time.
    assert grown < 150, f"{grown} MiB"


@contextlib.contextmanager
def _clients_that_do_not_read(port, message, *, count):
    """Opens a connection that asks `count` times and allows no bytes of an answer (HTTP/2 window of 0)."""

    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def text(value):
        return bytes([len(value)]) + value

    path = text(b"/tensorflow.serving.PredictionService/Predict")
    headers = b"\x83\x86\x04" + path + b"\x01" + text(b"localhost")
    for name, value in ((b"content-type", b"application/grpc"), (b"te", b"trailers")):
        headers += b"\x00" + text(name) + text(value)
    body = b"\0" + struct.pack(">I", len(message)) + message
    data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, 0))
    for stream in range(1, 2 * count, 2):
        data += frame(1, 4, stream, headers) + frame(0, 1, stream, body)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        raw.sendall(data)
        yield


def _varint(number):
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def _field(number, data):
    return bytes([number << 3 | 2]) + _varint(len(data)) + data
