"""Many clients at once, over real gRPC: batches never mix answers, and what cannot be done is refused at once."""

import contextlib
import http.client
import json
import os
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serving_tools import Caller, copy_version, eventually, export_toy, peak_mib, start_server

from serving.server.config import Limits
from serving.server.config_files import Batching


@pytest.fixture(scope="module")
def served(toy, front_end):
    running = start_server(toy, grpc_front_end=front_end)
    yield running
    running.stop(grace_s=5)


@pytest.fixture(scope="module")
def caller(served):
    with Caller(served.port) as opened:
        yield opened


@contextlib.contextmanager
def serving(folder, **settings):
    server = start_server(folder, **settings)
    try:
        with Caller(server.port) as caller:
            yield server, caller
    finally:
        server.stop(grace_s=30)


def rows_of(seed, count):
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def test_signatures_are_batched_where_rows_fit_together(served, server):
    """The toy's all are; of the exported model all but audio, whose rows differ in length."""

    def batched(running):
        with running.catalog.use(running.config.model_name) as model:
            return {name for name, signature in model.signatures.items() if signature.is_batched}

    assert batched(served) == {"double", "negate", "finite", "slow", "ran", "version", "serving_default"}
    assert batched(server) == {
        "encode",
        "decode",
        "decode_audio",
        "reconstruct",
        "generate",
        "spec",
        "serving_default",
    }


def test_every_answer_is_that_of_its_own_input(caller):
    """Two signatures with equal shapes under concurrent load, in requests of several sizes."""

    def one(number):
        x = rows_of(number, 1 + number % 5)
        name, factor = ("double", 2) if number % 2 else ("negate", -1)
        np.testing.assert_allclose(caller.predict(name, x=x)["y"], factor * x, rtol=1e-6)

    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(one, range(1000)))) == 1000


def ran(caller):
    answer = caller.predict("ran", index=np.zeros(1, np.int32))
    return int(answer["rows"][0]), int(answer["runs"][0])


def steps(count):
    return np.full((1, 3), count, np.float32)


@pytest.mark.parametrize("batching", [Batching(), None])
def test_requests_share_batches_where_batching_is_on(toy, batching, front_end):
    with serving(toy, batching=batching, grpc_front_end=front_end) as (_, caller):
        waiting = [caller.future("slow", x=steps(2000)) for _ in range(48)]
        assert all(one.result() for one in waiting)
        rows, runs = ran(caller)
    assert rows == 48
    assert (runs < 40) if batching else (runs == 48)


def test_a_bad_row_fails_alone(caller):
    def one(number):
        x = rows_of(number, 1)
        if number % 4 == 0:
            x[0, 1] = np.nan
            code, message = caller.refusal("finite", x=x)
            assert code == "INVALID_ARGUMENT", message
            assert "a bad row" in message
        else:
            np.testing.assert_array_equal(caller.predict("finite", x=x)["y"], x)

    with ThreadPoolExecutor(12) as pool:
        assert len(list(pool.map(one, range(400)))) == 400


def test_requests_that_do_not_fit_disturb_nobody(caller):
    def one(number):
        if number % 3 == 0:
            bad = (np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float64), np.zeros(3, np.float32))
            assert caller.refusal("double", x=bad[number % len(bad)])[0] == "INVALID_ARGUMENT"
        else:
            x = rows_of(number, 2)
            np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x, rtol=1e-6)

    with ThreadPoolExecutor(24) as pool:
        assert len(list(pool.map(one, range(600)))) == 600


def test_padding_to_allowed_sizes_and_large_requests(toy, front_end):
    batching = Batching(max_batch_size=8, allowed_batch_sizes=(4, 8), batch_timeout_micros=1000, num_batch_threads=2)
    with serving(toy, batching=batching, grpc_front_end=front_end) as (_, caller), ThreadPoolExecutor(8) as pool:

        def one(number):
            x = rows_of(number, number)
            np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x, rtol=1e-6)

        assert len(list(pool.map(one, [0, 1, 3, 7, 8, 9, 31, 32, 33, 100]))) == 10


SMALL = Batching(max_batch_size=2, max_enqueued_batches=1, num_batch_threads=1)
LONG = 40_000


@contextlib.contextmanager
def full_house(toy, front_end):
    """A server whose `slow` is full: some rows compute or are about to, two wait. Yields what `wait`s too."""
    settings = {"batching": SMALL, "rest_api_timeout_in_ms": 120_000, "grpc_front_end": front_end}
    with serving(toy, **settings) as (server, caller):
        caller.predict("slow", x=steps(1))  # from now on, the front puts such requests together
        with server.catalog.use("vae") as model:
            queue = model.signatures["slow"]._batch_queue
        if front_end == "native":
            inside = [caller.future("slow", x=steps(LONG))]
            eventually(lambda: held(server) == 1)
        else:
            inside = [caller.future("slow", x=steps(LONG)) for _ in range(4)]
            eventually(lambda: queue._free == 0)
        waiting = [caller.future("slow", x=steps(1)) for _ in range(2)]

        def are_waiting(count):
            return held(server) == 1 + count if front_end == "native" else len(queue._queue) == count

        eventually(lambda: are_waiting(2))
        yield server, caller, inside, waiting, are_waiting


def held(server):
    return server._grpc.native.held()[0]


def test_a_full_queue_is_unavailable_at_once_and_recovers(toy, front_end):
    with full_house(toy, front_end) as (_, caller, inside, waiting, _):
        started = time.monotonic()
        code, message = caller.refusal("slow", x=steps(1))
        assert time.monotonic() - started < 0.1
        assert (code, "queue" in message) == ("UNAVAILABLE", True)
        assert not any(one.done() for one in inside + waiting), "the refusals came no sooner than the answers"
        # Others do not wait for it.
        np.testing.assert_array_equal(caller.predict("double", x=steps(1))["y"], 2 * steps(1))
        assert all(one.result() for one in inside + waiting)
        np.testing.assert_array_equal(caller.predict("slow", x=steps(1))["y"], steps(1))


def test_a_full_queue_is_503_over_rest(toy):
    with full_house(toy, "python") as (server, _, inside, waiting, _):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        connection.request(
            "POST", "/v1/models/vae:predict", json.dumps({"signature_name": "slow", "inputs": [[1] * 3]})
        )
        response = connection.getresponse()
        assert (response.status, "queue" in json.loads(response.read())["error"]) == (503, True)
        connection.close()
        assert not any(one.done() for one in inside + waiting), "the refusals came no sooner than the answers"


def test_deadlines_are_honoured_and_abandoned_work_is_not_run(toy, front_end):
    with full_house(toy, front_end) as (_, caller, inside, waiting, are_waiting):
        waiting[0].cancel()
        eventually(lambda: are_waiting(1))
        code, _ = caller.refusal("slow", x=steps(1), timeout=0.3)
        assert code == "DEADLINE_EXCEEDED"
        assert not any(one.done() for one in inside)
        assert all(one.result() for one in inside)
        assert waiting[1].result()
        assert ran(caller)[0] == 1 + len(inside) + 1


def test_more_requests_than_there_are_threads_are_refused(toy, front_end):
    limits = Limits(concurrent_runs=1, open_requests=4)
    with serving(toy, limits=limits, batching=None, grpc_front_end=front_end) as (_, caller):
        answers = [caller.future("slow", x=steps(10_000)) for _ in range(60)]
        codes = Counter(one.code().name for one in answers)
        assert set(codes) == {"OK", "UNAVAILABLE"}
        assert codes["OK"] >= 4
        assert caller.predict("slow", x=steps(1))["y"].shape == (1, 3)


def test_a_rollover_under_load_fails_no_request_and_leaves_nothing_behind(tmp_path, toy, front_end):
    copy_version(toy / "1", tmp_path, 1)
    ended, failures, seen = threading.Event(), [], Counter()
    settings = {"file_system_poll_wait_seconds": 0.1, "grpc_front_end": front_end}
    with serving(tmp_path, **settings) as (server, caller), ThreadPoolExecutor(16) as pool:

        def ask(number):
            while not ended.is_set():
                x = rows_of(number, 1 + number % 3)
                try:
                    name, factor = ("double", 2) if number % 2 else ("negate", -1)
                    if not np.allclose(caller.predict(name, x=x)["y"], factor * x):
                        failures.append("a wrong answer")
                    seen[int(caller.predict("version", index=np.zeros(1, np.int32))["version"][0])] += 1
                except grpc.RpcError as error:
                    failures.append(error.details())

        asking = [pool.submit(ask, number) for number in range(16)]
        try:
            eventually(lambda: seen[1] > 50)
            threads = {}
            for version in range(2, 6):
                export_toy(tmp_path, version)
                eventually(lambda version=version: seen[version] > 50)
                eventually(lambda version=version: server.versions == [version])
                eventually(lambda: sum(s.state != "END" for s in server.catalog.statuses("vae")) == 1)
                threads[version] = threading_count()
        finally:
            ended.set()
        for one in asking:
            one.result()
    assert failures == []
    assert set(seen) == {1, 2, 3, 4, 5}
    # The threads of the batch queues go with their version: a dozen would stay of each.
    assert threads[5] <= threads[3] + 4, threads


def threading_count():
    """Returns the threads of this process that are not Python's, whose pools grow as they are used."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


def test_hostile_messages_take_no_more_memory_than_a_few_of_them(toy, front_end):
    """Small pieces of a message grow when it is read: twenty-fold in protobuf, thirty-fold in JSON."""
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
            with contextlib.suppress(ConnectionError):  # what is too long is refused while it is being sent
                connection.request("POST", "/v1/models/vae:predict", bodies[number % len(bodies)])
                return str(connection.getresponse().status)
            return "413"

        before = peak_mib(reset=True)
        codes = Counter([*pool.map(over_grpc, range(48)), *pool.map(over_rest, range(48))])
        grown = peak_mib() - before
        assert set(codes) <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "400", "413", "503"}, codes
        assert {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "400", "413"} <= set(codes), codes
        np.testing.assert_array_equal(caller.predict("double", x=steps(1))["y"], 2 * steps(1))
    assert grown < 1500, f"{grown} MiB"


def test_answers_that_nobody_reads_are_bounded_in_sum_and_given_up_in_python(exported):
    limits = Limits(message_bytes=8 << 20, open_requests=64)
    z = np.zeros((64, 8), np.float32)
    settings = {"limits": limits, "grpc_front_end": "python"}
    with serving(exported.path.parent, **settings) as (server, caller), contextlib.ExitStack() as connections:
        answer = caller._predict(caller.request("decode", z=z), timeout=60).ByteSize()
        message = caller.request("decode", z=z).SerializeToString()
        unread = server._grpc._unread
        eventually(lambda: unread._used == 0)
        before = peak_mib(reset=True)
        # 40 answers of 7 MB, of which the server may hold four: 32 MiB, four times its largest message.
        for _ in range(5):
            connections.enter_context(_clients_that_do_not_read(server.port, message, count=8))
        eventually(lambda: unread._used >= 4 * answer)
        assert caller.refusal("decode", z=z) == (
            "UNAVAILABLE",
            "Too many answers wait for clients that do not read them",
        )
        assert caller.predict("decode", z=z[:1])["mel"].shape[0] == 1, "small answers still find room"
        grown = peak_mib() - before
        eventually(lambda: len(unread._unread) == 4)
        unread._max_bytes = unread._used
        assert caller.refusal("decode", z=z[:1])[0] == "UNAVAILABLE"
        assert len(caller.predict("encode", mel=np.zeros((1, 128, 216), np.float32))) == 2, "tiny ones need no room"
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
    assert grown < 150, f"{grown} MiB"


def test_long_answers_as_json_are_made_one_at_a_time_and_beyond_a_length_refused(exported):
    limits = Limits(json_bytes=6 << 20)

    def ask(port, rows):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        body = {"signature_name": "decode", "instances": np.zeros((rows, 8)).tolist()}
        connection.request("POST", "/v1/models/vae:predict", json.dumps(body))
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, len(answer), answer[:200]

    with serving(exported.path.parent, limits=limits) as (server, _), ThreadPoolExecutor(24) as pool:
        ask(server.rest_port, 40)
        before = peak_mib(reset=True)
        answers = list(pool.map(lambda _: ask(server.rest_port, 40)[:2], range(12)))
        grown = peak_mib() - before
        assert {status for status, _ in answers} == {200}
        assert ask(server.rest_port, 60)[0] == 400
        assert b"send fewer rows, or use gRPC" in ask(server.rest_port, 60)[2]
        assert ask(server.rest_port, 1)[0] == 200
    # This process is the clients too: each holds its answer of 20 MB for a moment, the server one in the making.
    assert grown < 500, f"{grown} MiB"


@contextlib.contextmanager
def _clients_that_do_not_read(port, message, *, count):
    """A connection that asks `count` times and allows not a byte of an answer (HTTP/2's window of 0)."""

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
