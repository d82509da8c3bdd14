"""The native front end: what it puts together, and what it refuses by itself."""

import contextlib
import shutil
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import hpack
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serving_tools import Caller, copy_version, eventually, export_toy, peak_mib, start_server

from serving.protocol import protos, tensors
from serving.protocol.names import METRICS_PATH, PREDICT
from serving.protocol.status import StatusError
from serving.server import grpc_native
from serving.server.admission import Call
from serving.server.config import Limits
from serving.server.config_files import Batching
from serving.server.grpc_native import is_built
from tfpipe.errors import ServingError, UsageError

if is_built():
    from serving.server import _front

native = pytest.mark.skipif(not is_built(), reason="the native front end is not built; install Rust")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8


@pytest.mark.skipif(shutil.which("cargo") is None, reason="no Rust here")
def test_where_there_is_rust_the_front_end_is_built():
    assert is_built(), "scripts/setup built no native front end; run `cargo build --release` to see why"


@pytest.fixture(scope="module")
def served(toy):
    running = start_server(toy, grpc_front_end="native", metrics_path=METRICS_PATH)
    yield running
    running.stop(grace_s=5)


@pytest.fixture(scope="module")
def caller(served):
    with Caller(served.port) as opened:
        yield opened


# What it puts together.


def request(name="vae", signature="double", output_filter=(), **inputs):
    message = protos.PredictRequest(output_filter=output_filter)
    message.model_spec.name, message.model_spec.signature_name = name, signature
    for alias, array in inputs.items():
        tensors.write(message.inputs[alias], array)
    return message


ROWS = request(x=np.ones((1, 3), np.float32)).SerializeToString()
arrays = st.builds(
    lambda rows, width, dtype: np.arange(rows * width).astype(dtype).reshape(rows, width),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([np.float32, np.int32, np.int64]),
)
messages = st.builds(
    lambda inputs, name, outputs, tail: request(name=name, output_filter=outputs, **inputs).SerializeToString() + tail,
    st.dictionaries(st.text(max_size=2), st.one_of(arrays, st.just(np.array([b"text"], object))), max_size=3),
    st.sampled_from(["vae", "", "\x00\x00\x00\x00"]),
    st.lists(st.sampled_from(["y", "z"]), max_size=2),
    # Nothing, a field that is not known, an input given twice, another model.
    st.sampled_from([b"", b"\x80\x7d\x05", b"\x12\x05\x0a\x01x\x12\x00", b"\x0a\x03\x0a\x01x"]),
)
seen = {}


def assert_rows_are_protobufs(data):
    """What is put together is what protobuf reads; requests of one key differ in nothing but their rows."""
    found = _front.rows_of(bytes(data))
    if found is None:
        return False
    key, rows, inputs = found
    try:
        message = protos.PredictRequest.FromString(bytes(data))
    except DecodeError:
        return False  # it is never answered, so that its key is never learnt
    assert rows > 0
    assert len(inputs) == len(message.inputs)
    assert {alias.decode(): content for alias, content in inputs} == {
        alias: proto.tensor_content for alias, proto in message.inputs.items()
    }
    for proto in message.inputs.values():
        assert proto.tensor_shape.dim[0].size == rows
        proto.tensor_shape.dim[0].size = len(proto.tensor_content) // rows
        proto.tensor_content = b""
    assert seen.setdefault(key, message) == message
    return True


@native
@settings(max_examples=500, deadline=None)
@given(data=messages)
def test_whole_messages(data):
    assert_rows_are_protobufs(data)


@native
@settings(max_examples=2000, deadline=None)
@given(data=messages, changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
@example(data=request(x=np.ones((1, 3), np.float32)).SerializeToString(), changes=[])
def test_damaged_messages(data, changes):
    damaged = bytearray(data)
    for place, byte in changes:
        if damaged:
            damaged[int(place * len(damaged))] = byte
    assert_rows_are_protobufs(damaged)
    assert_rows_are_protobufs(damaged[: len(damaged) * 2 // 3])


@native
def test_what_differs_in_more_than_its_rows_has_another_key():
    x = np.ones((2, 3), np.float32)
    same = [request(x=x), request(x=np.zeros((2, 3), np.float32)), request(x=np.zeros((5, 3), np.float32))]
    other = [
        request(name="b", x=x),
        request(signature="negate", x=x),
        request(output_filter=["y"], x=x),
        request(y=x),
        request(x=x, y=x),
        request(x=np.ones((2, 4), np.float32)),
        request(x=np.ones((2, 3, 1), np.float32)),
        request(x=np.ones((2, 3), np.int32)),
    ]
    assert all(assert_rows_are_protobufs(message.SerializeToString()) for message in same + other)
    assert len({_front.rows_of(message.SerializeToString())[0] for message in same}) == 1
    assert len({_front.rows_of(message.SerializeToString())[0] for message in same + other}) == 1 + len(other)
    # Strings, no rows, and inputs that differ in their number come by themselves.
    for alone in (
        request(x=np.array([b"a"], object)),
        request(x=x[:0]),
        request(x=x, y=x[:1]),
        request(x=np.float32(1)),
        request(),
    ):
        assert _front.rows_of(alone.SerializeToString()) is None
    # So does an input that is given twice, and what would make a long key.
    given = request(x=x).SerializeToString()
    assert _front.rows_of(given) is not None
    assert _front.rows_of(given + given[given.index(b"\x12") :]) is None
    assert _front.rows_of(given + b"\x0a\x02\x22\x00" * 300) is None
    assert _front.rows_of(request(x=x, name="v" * 5000).SerializeToString()) is None
    assert _front.rows_of(request(**{"x" * 5000: x}).SerializeToString()) is None


@native
def test_rows_come_in_batches_and_a_new_version_answers_them_as_it_is(toy, tmp_path):
    """The rows of a request are put together with others by what it says, whichever version answers."""
    copy_version(toy / "1", tmp_path, 1)
    server = start_server(tmp_path, grpc_front_end="native", file_system_poll_wait_seconds=0.1)
    try:
        with Caller(server.port) as caller, ThreadPoolExecutor(16) as pool:
            ask = lambda _: int(caller.predict("version", index=np.zeros(1, np.int32))["version"][0])  # noqa: E731
            assert set(pool.map(ask, range(200))) == {1}
            x = np.full((1, 3), 500, np.float32)
            before = caller.predict("ran", index=np.zeros(1, np.int32))
            list(pool.map(lambda _: caller.predict("slow", x=x), range(100)))
            after = caller.predict("ran", index=np.zeros(1, np.int32))
            assert after["rows"][0] - before["rows"][0] == 100
            assert after["runs"][0] - before["runs"][0] < 60
            export_toy(tmp_path, 2)
            eventually(lambda: server.versions == [2])
            assert set(pool.map(ask, range(200))) == {2}
    finally:
        server.stop(grace_s=5)


@native
def test_a_model_that_changes_its_shape_under_a_learnt_request_refuses_it(tmp_path, toy, exported):
    """Nothing of an earlier model's batches reaches another model of that name."""
    server = start_server(toy, grpc_front_end="native")
    x = np.ones((1, 3), np.float32)
    reload = protos.ReloadConfigRequest()
    model = reload.config.model_config_list.config.add(name="vae", model_platform="tensorflow")
    try:
        with Caller(server.port) as caller:
            method = caller.channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
            for _ in range(3):
                np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
            model.base_path = str(exported.path.parent)
            method(reload.SerializeToString(), timeout=120)
            for _ in range(3):
                assert caller.refusal("double", x=x)[0] == "FAILED_PRECONDITION"
            model.base_path = str(toy)
            method(reload.SerializeToString(), timeout=120)
            np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
    finally:
        server.stop(grace_s=5)


@native
def test_more_kinds_of_requests_than_are_remembered(caller):
    """Each version, filter and name is a kind of its own; clients cannot make the memory of them grow."""
    x = np.ones((1, 3), np.float32)
    raw = caller.channel.unary_unary(PREDICT)
    for number in range(720):
        more = number // 60
        message = request(x=x, signature=("double", "", "serving_default")[more // 4], output_filter=["y"] * (more & 1))
        if more & 2:
            message.model_spec.version.value = 1
        # An empty label says nothing, and may be written as often as one likes: a kind for each.
        data = message.SerializeToString() + b"\x0a\x02\x22\x00" * (number % 60)
        response = protos.PredictResponse.FromString(raw(data, timeout=60))
        np.testing.assert_array_equal(tensors.from_proto(response.outputs["y"], max_bytes=100), 2 * x)
    np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)


# What it refuses by itself, and what it counts.


@native
def test_compressed_messages(served, caller, caplog):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    message = caller.request("double", x=x).SerializeToString()
    raw = caller.channel.unary_unary(PREDICT)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        answer = protos.PredictResponse.FromString(raw(message, compression=compression, timeout=60))
        np.testing.assert_array_equal(tensors.from_proto(answer.outputs["y"], max_bytes=100), 2 * x)
    # A message that is small when packed and too large unpacked.
    with pytest.raises(grpc.RpcError) as info:
        raw(bytes(served.config.limits.message_bytes + 1), compression=grpc.Compression.Gzip, timeout=60)
    assert info.value.code().name == "RESOURCE_EXHAUSTED"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@native
def test_compressed_messages_that_are_large_unpacked_take_room(toy):
    """A few kilobytes that become many megabytes each, all at once: some are read, the others refused."""
    limits = Limits(message_bytes=16 << 20)
    server = start_server(toy, limits=limits, grpc_front_end="native")
    try:
        with Caller(server.port) as caller, ThreadPoolExecutor(32) as pool:
            raw = caller.channel.unary_unary(PREDICT)
            message = caller.request("double", x=np.zeros((1 << 20, 3), np.float32)).SerializeToString()
            caller.predict("double", x=np.zeros((1, 3), np.float32))
            before = peak_mib(reset=True)

            def ask(_):
                try:
                    raw(message, compression=grpc.Compression.Gzip, timeout=120)
                except grpc.RpcError as error:
                    return error.code().name
                return "OK"

            codes = Counter(pool.map(ask, range(40)))
            grown = peak_mib() - before
            small = protos.PredictResponse.FromString(raw(ROWS, compression=grpc.Compression.Gzip, timeout=60))
            assert small.outputs["y"].tensor_shape.dim[0].size == 1
        assert set(codes) <= {"INVALID_ARGUMENT", "UNAVAILABLE"}, codes
        assert codes["INVALID_ARGUMENT"] >= 1, "a million rows are too many"
    finally:
        server.stop(grace_s=5)
    assert grown < 300, f"{grown} MiB"


@native
def test_unknown_methods_and_messages_that_are_none(caller):
    for path, data, code in (
        ("/tensorflow.serving.PredictionService/Nothing", b"", "UNIMPLEMENTED"),
        ("/x", b"", "UNIMPLEMENTED"),
        (PREDICT, b"\xff", "INTERNAL"),
    ):
        with pytest.raises(grpc.RpcError) as info:
            caller.channel.unary_unary(path)(data, timeout=60)
        assert info.value.code().name == code


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(path=PREDICT, method=b"\x83", kind=b"application/grpc", extra=()):
    def text(value):
        return bytes([len(value)]) + value

    block = method + b"\x86\x04" + text(path.encode()) + b"\x01" + text(b"localhost")
    for name, value in ((b"content-type", kind), (b"te", b"trailers"), *extra):
        block += b"\x00" + text(name) + text(value)
    return block


@contextlib.contextmanager
def connection(port, data=b""):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(PREFACE + frame(SETTINGS, 0, 0))
        frames(raw, lambda one: one[0] == WINDOW_UPDATE)
        # From here on, the server's windows are as wide as it said.
        raw.sendall(frame(SETTINGS, 1, 0) + data)
        yield raw


def frames(raw, until):
    """Reads frames up to one that `until` accepts; returns (kind, flags, stream, payload) of each."""
    data, found = b"", []
    while True:
        while len(data) >= 9:
            length = int.from_bytes(data[:3], "big")
            if len(data) < 9 + length:
                break
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
            data = data[9 + length :]
            if until(found[-1]):
                return found
        more = raw.recv(65536)
        if not more:
            return found
        data += more


def ends_call(one):
    return (one[0] in (DATA, HEADERS) and one[1] & 1) or one[0] in (RST_STREAM, GOAWAY)


def prefixed(message, *, flag=0, length=None):
    return bytes([flag]) + struct.pack(">I", len(message) if length is None else length) + message


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
        (header_block(extra=[(b"grpc-timeout", b"soon")]), prefixed(b"abc"), b"no time"),
        (header_block(extra=[(b"grpc-timeout", b"1n")]), prefixed(ROWS), b"deadline"),
        (header_block(extra=[(b"grpc-timeout", b"99999999H")]), prefixed(b"\xff"), b"not a message"),
        (header_block(kind=b"text/html"), prefixed(b"abc"), b"415"),
        (header_block(method=b"\x82"), b"", b"405"),
    ],
)
def test_calls_that_are_none(served, block, body, says):
    data = frame(HEADERS, 4, 1, block) + frame(DATA, 1, 1, body)
    with connection(served.port, data) as raw:
        answered = frames(raw, lambda one: one[2] == 1 and ends_call(one))
    [head] = [payload for kind, _, stream, payload in answered if (kind, stream) == (HEADERS, 1)]
    assert says in text_of(head), head
    assert RST_STREAM not in {kind for kind, *_ in answered}


def text_of(block):
    """Returns a block of response headers as text."""
    pairs = hpack.Decoder().decode(block, raw=True)
    return urllib.parse.unquote_to_bytes(b"\n".join(b"%s: %s" % (name, value) for name, value in pairs))


@native
def test_connections_that_are_none_end_and_disturb_nobody(served, caller):
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
        with connection(served.port) as raw, contextlib.suppress(OSError):
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
    eventually(lambda: served._grpc.native.held() == (0, 0, 0))


@native
@pytest.mark.parametrize("window", [0, (1 << 31) - 1], ids=["no window", "no reading"])
def test_answers_that_are_not_taken_are_given_up(exported, monkeypatch, window):
    """Whether a client allows not a byte, or allows all and reads nothing: its answers go, and their memory."""
    monkeypatch.setattr(grpc_native, "UNREAD_TIMEOUT_S", 4.0)
    limits = Limits(message_bytes=8 << 20, open_requests=64)
    server = start_server(exported.path.parent, limits=limits, grpc_front_end="native")
    z = np.zeros((64, 8), np.float32)
    try:
        with Caller(server.port) as caller, contextlib.ExitStack() as stack:
            message = caller.request("decode", z=z).SerializeToString()
            call = frame(HEADERS, 4, 1, header_block()) + frame(DATA, 1, 1, prefixed(message))
            settings_ = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window))
            wider = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65_535)) if window else b""
            caller.predict("decode", z=z)
            before = peak_mib(reset=True)
            for _ in range(30):  # of whose answers, 7 MB each, the server may hold four
                raw = socket.socket()
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                raw.connect(("127.0.0.1", server.port))
                stack.enter_context(raw)
                raw.sendall(PREFACE + settings_ + wider + call)
            eventually(lambda: server._grpc.native.held()[2] > 24 << 20)
            assert caller.refusal("decode", z=z)[0] == "UNAVAILABLE"
            request_ = protos.HealthCheckRequest()
            health = caller.channel.unary_unary("/grpc.health.v1.Health/Check")
            assert health(request_.SerializeToString(), timeout=20), "small answers need no room"
            grown = peak_mib() - before
            time.sleep(4.2)

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
    assert grown < 150, f"{grown} MiB"


@native
def test_requests_that_do_not_come_are_given_up(toy, monkeypatch):
    """Some clients send all but the end of large messages and fall silent; others get room once it is needed."""
    monkeypatch.setattr(grpc_native, "UNREAD_TIMEOUT_S", 1.0)
    server = start_server(toy, limits=Limits(message_bytes=1 << 20), grpc_front_end="native")
    x = np.ones((1, 3), np.float32)
    try:
        with Caller(server.port) as caller, contextlib.ExitStack() as stack:
            most = prefixed(bytes((1 << 20) - 50), length=1 << 20)
            parts = b"".join(frame(DATA, 0, 1, most[at : at + 16_000]) for at in range(0, len(most), 16_000))
            for _ in range(4):
                stack.enter_context(connection(server.port, frame(HEADERS, 4, 1, header_block()) + parts))
            eventually(lambda: server._grpc.native.held()[1] > 4_100_000)
            np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
            large = np.ones((20_000, 3), np.float32)
            assert caller.refusal("double", x=large)[0] == "UNAVAILABLE"
            time.sleep(1.2)
            eventually(lambda: caller.refusal("double", x=large)[0] == "INVALID_ARGUMENT")  # too many rows
    finally:
        server.stop(grace_s=5)


@native
def test_connections_that_do_nothing_make_room_for_others(toy, monkeypatch):
    """Idle ones end, and so do those of clients that never read what they are told."""
    monkeypatch.setattr(grpc_native, "UNREAD_TIMEOUT_S", 1.0)
    server = start_server(toy, grpc_front_end="native")
    unknown = header_block(path="/" + "x" * 100)
    try:
        with contextlib.ExitStack() as stack:
            idle = stack.enter_context(connection(server.port))
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            stack.enter_context(deaf).settimeout(20)
            deaf.sendall(PREFACE + frame(SETTINGS, 0, 0))
            # More answers than the socket holds, of no more calls than a connection may have.
            for stream in range(1, 1981, 2):
                deaf.sendall(frame(HEADERS, 4, stream, unknown) + frame(DATA, 1, stream, prefixed(b"")))
            silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(998)]
            eventually(lambda: server._grpc.native.held()[0] == 0)

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

            assert is_refused(), "there is no room for one more"
            time.sleep(1.2)
            is_refused()
            assert is_closed(idle)
            assert is_closed(deaf)
            with Caller(server.port) as caller:
                x = np.ones((1, 3), np.float32)
                np.testing.assert_array_equal(caller.predict("double", x=x)["y"], 2 * x)
            assert len(silent) == 998
    finally:
        server.stop(grace_s=5)


@native
def test_requests_that_are_read_are_bounded_in_sum(toy):
    """Announced sizes take nothing; what was sent does, and goes with its client."""
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
            eventually(lambda: server._grpc.native.held()[0] == 4)
            assert server._grpc.native.held()[1] <= 4 << 20
        eventually(lambda: server._grpc.native.held() == (0, 0, 0))
    finally:
        server.stop(grace_s=5)


@native
def test_what_it_refuses_is_counted(toy):
    from test_metrics import page, samples

    batching = Batching(max_batch_size=2, max_enqueued_batches=1, num_batch_threads=1)
    server = start_server(toy, batching=batching, grpc_front_end="native", metrics_path=METRICS_PATH)
    slow = np.full((1, 3), 20_000, np.float32)
    try:
        with Caller(server.port) as caller:
            caller.predict("slow", x=slow * 0)
            codes = Counter(one.code().name for one in [caller.future("slow", x=slow) for _ in range(20)])
            caller.predict("slow", x=slow * 0)
        assert set(codes) == {"OK", "UNAVAILABLE"}

        def counted(status):
            return samples(page(server)[2]).get(
                (":tensorflow:serving:request_count", f'model_name="vae",status="{status}"')
            )

        eventually(lambda: counted("UNAVAILABLE") == codes["UNAVAILABLE"])
        assert counted("OK") == codes["OK"] + 2
    finally:
        server.stop(grace_s=5)


@native
def test_stop_answers_what_is_in_hand_and_takes_no_more(toy):
    server = start_server(toy, grpc_front_end="native")
    slow = np.full((1, 3), 30_000, np.float32)
    with Caller(server.port) as caller:
        caller.predict("slow", x=slow * 0)
        waiting = [caller.future("slow", x=slow) for _ in range(5)]
        eventually(lambda: server._grpc.native.held()[0] == 5)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert all(one.result() for one in waiting)
        stopping.join(timeout=30)
        assert caller.refusal("double", x=slow, timeout=5)[0] == "UNAVAILABLE"


@native
def test_stop_does_not_wait_longer_than_it_is_told(toy):
    server = start_server(toy, grpc_front_end="native")
    with Caller(server.port) as caller:
        waiting = caller.future("slow", x=np.full((1, 3), 100_000, np.float32))
        eventually(lambda: server._grpc.native.held()[0] == 1)
        started = time.monotonic()
        server._grpc.stop(0.2).wait()
        assert time.monotonic() - started < 10
        assert waiting.code().name == "UNAVAILABLE"
    server.stop(grace_s=1)


@native
def test_one_signature_has_one_queue_however_requests_are_written(toy):
    """A client that writes each request in another way cannot get more than its share."""
    batching = Batching(max_batch_size=2, max_enqueued_batches=1, num_batch_threads=1)
    server = start_server(toy, batching=batching, grpc_front_end="native")
    slow = np.full((1, 3), 100_000, np.float32)
    try:
        with Caller(server.port) as caller:
            raw = caller.channel.unary_unary(PREDICT)
            writings = [b"\x0a\x02\x22\x00" * number for number in range(10)]
            quick = caller.request("slow", x=slow * 0).SerializeToString()
            for writing in writings:
                raw(quick + writing, timeout=60)
            time.sleep(0.3)  # each is learnt just after its answer
            long = raw.future(caller.request("slow", x=slow).SerializeToString(), timeout=60)
            eventually(lambda: server._grpc.native.held()[0] == 1)
            codes = Counter(one.code().name for one in [raw.future(quick + w, timeout=60) for w in writings])
            assert long.code().name == "OK"
            assert codes == {"OK": 2, "UNAVAILABLE": 8}, "one computes, two wait"
    finally:
        server.stop(grace_s=5)


@native
def test_a_kind_of_requests_does_not_wait_for_ever_behind_another(toy):
    """Clients that keep every batch full write their requests in one way, another client in its own."""
    batching = Batching(max_batch_size=4, num_batch_threads=2)
    server = start_server(toy, batching=batching, grpc_front_end="native")
    ended = threading.Event()
    try:
        with Caller(server.port) as caller, ThreadPoolExecutor(40) as pool:
            raw = caller.channel.unary_unary(PREDICT)
            message = caller.request("slow", x=np.full((1, 3), 1000, np.float32)).SerializeToString()
            other = message + b"\x0a\x02\x22\x00"
            raw(other, timeout=60)

            def ask_on():
                count = 0
                while not ended.is_set():
                    raw(message, timeout=60)
                    count += 1
                return count

            asking = [pool.submit(ask_on) for _ in range(24)]
            time.sleep(1)
            waited = []
            for _ in range(5):
                started = time.monotonic()
                raw(other, timeout=20)
                waited.append(time.monotonic() - started)
            ended.set()
            assert min(one.result() for one in asking) > 0
            assert max(waited) < 5, waited
    finally:
        ended.set()
        server.stop(grace_s=5)


@native
def test_a_model_that_answers_with_other_rows_is_never_cut_apart(tmp_path):
    """Two rows for each one: in a batch, one client's rows would stand where another's belong."""
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def twice(x):
        return {"y": tf.concat([x, -x], 0)}

    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": twice.get_concrete_function()})
    server = start_server(tmp_path, grpc_front_end="native")
    try:
        with Caller(server.port) as caller, ThreadPoolExecutor(8) as pool:

            def one(number):
                x = np.full((1, 3), number, np.float32)
                np.testing.assert_array_equal(caller.predict("", x=x)["y"], np.concatenate([x, -x]))

            assert len(list(pool.map(one, range(100)))) == 100
            with server.catalog.use("vae") as model:
                signature = model.signatures["serving_default"]
            with pytest.raises(StatusError, match="one row for each row"):
                signature.run_rows({"x": np.ones((2, 3), np.float32)}, Call())
            assert not signature.rows_fit
    finally:
        server.stop(grace_s=5)


# How it is chosen.


def test_a_taken_port_is_one_line(toy, front_end):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"127.0.0.1:{port}: cannot listen there") as info:
            start_server_at(toy, port=port, grpc_front_end=front_end)
    assert "choose another --port" in str(info.value)


def start_server_at(toy, **settings_):
    from serving.server.config import ServerConfig
    from serving.server.server import Server

    return Server(ServerConfig(model_base_path=toy, rest_api_port=-1, **settings_))


def test_front_ends_that_are_none(toy):
    with pytest.raises(UsageError, match="auto, native, python"):
        start_server_at(toy, port=0, grpc_front_end="c++")


def test_without_the_compiled_module_python_answers(toy, monkeypatch):
    from serving.server import server
    from serving.server.grpc_python import PythonGrpcServer

    monkeypatch.setattr(server, "is_built", lambda: False)
    assert isinstance(start_server_at(toy, port=0)._grpc, PythonGrpcServer)
    with pytest.raises(ServingError, match="install Rust"):
        start_server_at(toy, port=0, grpc_front_end="native")
