"""The native gRPC server: batches, compressed messages, refusals that are counted, and stopping."""

import shutil
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serving_tools import (
    ROWS,
    Caller,
    copy_version,
    eventually,
    export_toy,
    metrics_page,
    native,
    native_grpc,
    peak_mib,
    predict_request,
    samples,
    start_server,
)

from serving.protocol import protos, tensors
from serving.protocol.names import METRICS_PATH, PREDICT
from serving.protocol.status import StatusError
from serving.server.admission import Call
from serving.server.config import Limits
from serving.server.config_files import Batching
from serving.server.grpc import native_server as native_module
from serving.server.grpc.native_server import is_built
from tfpipe.errors import ServingError


@pytest.mark.skipif(shutil.which("cargo") is None, reason="no Rust here")
def test_where_there_is_rust_the_front_end_is_built():
    assert is_built(), "scripts/setup built no native front end; run `cargo build --release` to see why"


@native
def test_requests_share_batches_and_a_new_version_answers_them(toy, tmp_path):
    copy_version(toy / "1", tmp_path, 1)
    server = start_server(tmp_path, grpc_front_end="native", file_system_poll_wait_seconds=0.1)
    try:
        with Caller(server.port) as caller, ThreadPoolExecutor(16) as pool:
            ask = lambda _: int(caller.predict("version", index=np.zeros(1, np.int32))["version"][0])  # noqa: E731
            assert set(pool.map(ask, range(60))) == {1}
            x = np.full((1, 3), 500, np.float32)
            before = caller.predict("ran", index=np.zeros(1, np.int32))
            list(pool.map(lambda _: caller.predict("slow", x=x), range(100)))
            after = caller.predict("ran", index=np.zeros(1, np.int32))
            assert after["rows"][0] - before["rows"][0] == 100
            assert after["runs"][0] - before["runs"][0] < 60
            export_toy(tmp_path, 2)
            eventually(lambda: server.versions == [2])
            assert set(pool.map(ask, range(60))) == {2}
    finally:
        server.stop(grace_s=5)


@native
def test_another_model_of_the_same_name_refuses_the_old_ones_requests(tmp_path, toy, exported):
    """Batches that the server forms for the earlier model do not reach the new one."""
    server = start_server(toy, grpc_front_end="native", enable_model_warmup=False, allow_reload=True)
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
def test_requests_written_in_many_ways_are_all_answered(native_caller):
    """The server remembers 256 kinds of requests that may share batches; these are more."""
    x = np.ones((1, 3), np.float32)
    raw = native_caller.channel.unary_unary(PREDICT)
    for number in range(0, 720, 2):
        more = number // 60
        message = predict_request(
            x=x, signature=("double", "", "serving_default")[more // 4], output_filter=["y"] * (more & 1)
        )
        if more & 2:
            message.model_spec.version.value = 1
        # An empty label means nothing and may be repeated; each number of repetitions is another kind.
        data = message.SerializeToString() + b"\x0a\x02\x22\x00" * (number % 60)
        response = protos.PredictResponse.FromString(raw(data, timeout=60))
        np.testing.assert_array_equal(tensors.from_proto(response.outputs["y"], max_bytes=100), 2 * x)
    np.testing.assert_array_equal(native_caller.predict("double", x=x)["y"], 2 * x)


@native
def test_compressed_messages(native_server, native_caller, caplog, monkeypatch):
    answers = []
    pack = native_module.packed

    def noted(parts, encoding):
        answers.append(encoding)
        return pack(parts, encoding)

    monkeypatch.setattr(native_module, "packed", noted)
    x = np.ones((20, 3), np.float32)  # grpcio sends it plain if compression makes it longer
    message = native_caller.request("double", x=x).SerializeToString()
    raw = native_caller.channel.unary_unary(PREDICT)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        answer = protos.PredictResponse.FromString(raw(message, compression=compression, timeout=60))
        np.testing.assert_array_equal(tensors.from_proto(answer.outputs["y"], max_bytes=1000), 2 * x)
    assert answers == ["gzip", "deflate"], "an answer is compressed as its request is"
    # This message is small when compressed, and larger than the limit once it is unpacked.
    with pytest.raises(grpc.RpcError) as info:
        raw(bytes(native_server.config.limits.message_bytes + 1), compression=grpc.Compression.Gzip, timeout=60)
    assert info.value.code().name == "RESOURCE_EXHAUSTED"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@native
def test_compressed_messages_cannot_fill_the_memory(toy):
    """Each message is a few kilobytes and unpacks to 6 MB. Some are read and the others refused."""
    limits = Limits(message_bytes=8 << 20)
    server = start_server(toy, limits=limits, grpc_front_end="native")
    try:
        with Caller(server.port) as caller, ThreadPoolExecutor(32) as pool:
            raw = caller.channel.unary_unary(PREDICT)
            message = caller.request("double", x=np.zeros((1 << 19, 3), np.float32)).SerializeToString()
            caller.predict("double", x=np.zeros((1, 3), np.float32))
            before = peak_mib(reset=True)

            def ask(_):
                try:
                    raw(message, compression=grpc.Compression.Gzip, timeout=120)
                except grpc.RpcError as error:
                    return error.code().name
                return "OK"

            codes = Counter(pool.map(ask, range(32)))
            grown = peak_mib() - before
            small = protos.PredictResponse.FromString(raw(ROWS, compression=grpc.Compression.Gzip, timeout=60))
            assert small.outputs["y"].tensor_shape.dim[0].size == 1
        assert set(codes) <= {"INVALID_ARGUMENT", "UNAVAILABLE"}, codes
        assert codes["INVALID_ARGUMENT"] >= 1, "so many rows are refused"
    finally:
        server.stop(grace_s=5)
    assert grown < 200, f"{grown} MiB"


@native
def test_unknown_methods_and_invalid_messages_are_refused(native_caller):
    for path, data, code in (
        ("/tensorflow.serving.PredictionService/Nothing", b"", "UNIMPLEMENTED"),
        ("/x", b"", "UNIMPLEMENTED"),
        (PREDICT, b"\xff", "INTERNAL"),
    ):
        with pytest.raises(grpc.RpcError) as info:
            native_caller.channel.unary_unary(path)(data, timeout=60)
        assert info.value.code().name == code


@native
def test_refused_requests_are_counted(toy):
    batching = Batching(max_batch_size=2, max_enqueued_batches=1, num_batch_threads=1)
    server = start_server(toy, batching=batching, grpc_front_end="native", metrics_path=METRICS_PATH)
    slow = np.full((1, 3), 10_000, np.float32)
    try:
        with Caller(server.port) as caller:
            caller.predict("slow", x=slow * 0)
            codes = Counter(one.code().name for one in [caller.future("slow", x=slow) for _ in range(20)])
            caller.predict("slow", x=slow * 0)
        assert set(codes) == {"OK", "UNAVAILABLE"}

        def counted(status):
            return samples(metrics_page(server)[2]).get(
                (":tensorflow:serving:request_count", f'model_name="vae",status="{status}"')
            )

        eventually(lambda: counted("UNAVAILABLE") == codes["UNAVAILABLE"])
        assert counted("OK") == codes["OK"] + 2
    finally:
        server.stop(grace_s=5)


@native
def test_stop_finishes_requests_in_progress_and_takes_no_more(toy):
    server = start_server(toy, grpc_front_end="native")
    slow = np.full((1, 3), 10_000, np.float32)
    with Caller(server.port) as caller:
        caller.predict("slow", x=slow * 0)
        waiting = [caller.future("slow", x=slow) for _ in range(5)]
        eventually(lambda: native_grpc(server).native.held()[0] == 5)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert all(one.result() for one in waiting)
        stopping.join(timeout=30)
        assert caller.refusal("double", x=slow, timeout=5)[0] == "UNAVAILABLE"


@native
def test_stop_waits_no_longer_than_the_grace_time(toy):
    server = start_server(toy, grpc_front_end="native")
    with Caller(server.port) as caller:
        waiting = caller.future("slow", x=np.full((1, 3), 100_000, np.float32))
        eventually(lambda: native_grpc(server).native.held()[0] == 1)
        started = time.monotonic()
        server._grpc.stop(0.2).wait()
        assert time.monotonic() - started < 10
        assert waiting.code().name == "UNAVAILABLE"
    server.stop(grace_s=1)


@native
def test_all_requests_for_a_signature_share_one_queue(toy):
    """A client cannot get more than its share by writing each request in another way."""
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
            eventually(lambda: not native_grpc(server)._calls)  # then requests written in these ways are batched
            long = raw.future(caller.request("slow", x=slow).SerializeToString(), timeout=60)
            eventually(lambda: native_grpc(server).native.held()[0] == 1)
            codes = Counter(one.code().name for one in [raw.future(quick + w, timeout=60) for w in writings])
            assert long.code().name == "OK"
            # The long one computes, and two wait. On a busy machine a third may join the long one's batch in time.
            assert codes in ({"OK": 2, "UNAVAILABLE": 8}, {"OK": 3, "UNAVAILABLE": 7})
    finally:
        server.stop(grace_s=5)


@native
def test_one_kind_of_requests_does_not_starve_another(toy):
    """Many clients keep every batch full with one kind of request, while one client sends another kind."""
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
            eventually(lambda: native_grpc(server).native.held()[0] >= 12)
            waited = []
            for _ in range(3):
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
def test_a_model_that_returns_two_rows_for_one_is_not_batched(tmp_path):
    """In a batch, one client would get another client's rows."""
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

            assert len(list(pool.map(one, range(50)))) == 50
            with server.catalog.use("vae") as model:
                signature = model.signatures["serving_default"]
            with pytest.raises(StatusError, match="cannot share a batch"):  # the first request has shown it
                signature.run_rows({"x": np.ones((2, 3), np.float32)}, Call())
            assert not signature.rows_fit
    finally:
        server.stop(grace_s=5)


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


def test_without_the_compiled_module_python_answers(toy, monkeypatch):
    from serving.server import server
    from serving.server.grpc.python_server import PythonGrpcServer

    monkeypatch.setattr(server, "is_built", lambda: False)
    assert isinstance(start_server_at(toy, port=0)._grpc, PythonGrpcServer)
    with pytest.raises(ServingError, match="install Rust"):
        start_server_at(toy, port=0, grpc_front_end="native")
