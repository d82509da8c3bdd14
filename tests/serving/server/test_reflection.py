"""gRPC reflection on both gRPC servers: what grpcurl and its like ask."""

import sys
import threading
from pathlib import Path

import grpc
import pytest
from serving_tools import Caller, eventually, native, native_grpc

from serving.protocol import protos
from serving.protocol.names import HEALTH_SERVICE, MODEL_SERVICE, PREDICTION_SERVICE
from serving.protocol.status import Code, StatusError
from serving.server import reflection

database = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
pb2 = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")

NATIVE = Path(__file__).parents[3] / "serving" / "native" / "src"
LIST = pb2.ServerReflectionRequest(list_services="")


@pytest.fixture(params=reflection.PATHS)
def ask(request, caller):
    """Sends messages in one call, and returns the answers, to each of the two names of reflection."""
    method = caller.channel.stream_stream(
        request.param,
        request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        response_deserializer=pb2.ServerReflectionResponse.FromString,
    )
    return lambda messages: method(iter(messages), timeout=60)


def test_services_and_their_messages_are_described(caller):
    found = database.ProtoReflectionDescriptorDatabase(caller.channel)
    assert set(found.get_services()) == {PREDICTION_SERVICE, MODEL_SERVICE, HEALTH_SERVICE}
    file = found.FindFileContainingSymbol(PREDICTION_SERVICE)
    [service] = file.service
    assert {method.name for method in service.method} == {
        "Classify",
        "GetModelMetadata",
        "MultiInference",
        "Predict",
        "Regress",
    }
    assert "tensorflow_serving/apis/predict.proto" in file.dependency
    kept = found.FindFileByName("tensorflow_serving/apis/predict.proto")
    assert "PredictRequest" in [message.name for message in kept.message_type]
    with pytest.raises(KeyError):
        found.FindFileContainingSymbol("no.such.Message")


def test_several_messages_of_one_call_are_answered_in_order(ask):
    symbol = pb2.ServerReflectionRequest(file_containing_symbol=HEALTH_SERVICE)
    answers = list(ask([LIST, symbol, pb2.ServerReflectionRequest(), LIST]))
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        "file_descriptor_response",
        "error_response",
        "list_services_response",
    ]
    assert list(ask([])) == []


def test_an_answer_comes_before_the_client_has_sent_everything(ask):
    heard: list[object] = []

    def messages():
        yield LIST
        eventually(lambda: heard)
        yield LIST

    for answer in ask(messages()):
        heard.append(answer)
    assert len(heard) == 2


@pytest.mark.parametrize("message", [b"\xff\xff", bytes(100_000)])
def test_what_is_no_short_message_is_refused(ask, message):
    with pytest.raises(grpc.RpcError) as info:
        list(ask([message]))
    assert info.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED)


@native
def test_a_client_that_leaves_in_the_middle_holds_nothing(native_server):
    with Caller(native_server.port) as caller:
        ask = caller.channel.stream_stream(reflection.PATHS[0])
        never = threading.Event()
        call = ask(iter(lambda: never.wait(60) or b"", None), timeout=60)
        eventually(lambda: native_grpc(native_server).native.held()[0] > 0)
        call.cancel()
        eventually(lambda: native_grpc(native_server).native.held()[0] == 0)
        never.set()


def test_without_the_package_the_answer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", None)
    with pytest.raises(StatusError, match="needs grpcio-reflection") as info:
        reflection.answer(b"", None)
    assert info.value.code == Code.UNIMPLEMENTED


def test_the_native_server_knows_the_same_paths():
    source = (NATIVE / "conversation.rs").read_text()
    assert all(f'"{path}"' in source for path in reflection.PATHS)
    assert protos.POOL.FindServiceByName(MODEL_SERVICE).methods_by_name["GetModelStatus"]
