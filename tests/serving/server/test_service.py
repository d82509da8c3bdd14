"""The gRPC API, request by request: codes and texts are TensorFlow Serving's."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serving_tools import UNLIMITED

from serving.protocol import protos, tensors, wire
from serving.server.admission import Call
from serving.server.service import Api

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"


@pytest.fixture(scope="module")
def served(exported, front_end, shared_server):
    return shared_server(exported.path.parent, front_end)


@pytest.fixture
def channel(served):
    with grpc.insecure_channel(f"127.0.0.1:{served.port}", options=UNLIMITED) as opened:
        yield opened


def call(channel, path, request, response_class, *, timeout=30):
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return channel.unary_unary(f"/{path}", response_deserializer=response_class.FromString)(data, timeout=timeout)


def predict_request(signature="decode", *, name="vae", version=None, output_filter=(), **inputs):
    request = protos.PredictRequest(output_filter=output_filter)
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(tensors.to_proto(np.asarray(array)))
    return request


def predict(channel, request, **options):
    return call(channel, f"{PREDICTION}/Predict", request, protos.PredictResponse, **options)


def refused(channel, request, **options):
    with pytest.raises(grpc.RpcError) as info:
        predict(channel, request, **options)
    return info.value.code().name, info.value.details()


Z = np.zeros((1, 8), np.float32)


def test_predict_names_the_served_version(channel):
    response = predict(channel, predict_request(z=Z))
    assert (response.model_spec.name, response.model_spec.version.value) == ("vae", 1)
    assert response.model_spec.signature_name == "decode"
    assert [dim.size for dim in response.outputs["mel"].tensor_shape.dim] == [1, 128, 216]
    assert len(response.outputs["mel"].float_val) == 128 * 216
    assert not response.outputs["mel"].tensor_content


def test_requests_and_answers_have_either_form(served, channel):
    typed, content = predict_request(z=Z + 1), predict_request(z=Z + 1)
    typed.inputs["z"].ClearField("tensor_content")
    typed.inputs["z"].float_val.extend([1.0] * 8)
    first = predict(channel, content)
    assert predict(channel, typed) == first
    api = Api(served.catalog, served.config.limits, tensor_content=True)
    answer = protos.PredictResponse.FromString(b"".join(api.predict(wire.Predict(typed), Call())))
    assert len(answer.outputs["mel"].tensor_content) == 4 * 128 * 216
    both = [tensors.from_proto(given.outputs["mel"], max_bytes=1 << 30) for given in (first, answer)]
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


def test_numbers_that_stand_for_others_are_repeated(channel):
    """The second request looks like the first to whoever only counts its bytes, so it must not be batched as such."""
    whole, short = predict_request(z=np.ones((1, 8), np.float32)), predict_request(z=Z)
    for request, count in ((whole, 8), (short, 4)):
        request.inputs["z"].ClearField("tensor_content")
        request.inputs["z"].float_val.extend([1.0] * count)
    expected = predict(channel, whole)
    for _ in range(3):
        mel = [tensors.from_proto(predict(channel, r).outputs["mel"], max_bytes=1 << 30) for r in (short, whole)]
        for found in mel:
            np.testing.assert_allclose(found, tensors.from_proto(expected.outputs["mel"], max_bytes=1 << 30), atol=1e-6)


def test_empty_signature_name_is_serving_default(channel, spec):
    response = predict(channel, predict_request("", version=1, mel=np.zeros((1, *spec.mel_shape), np.float32)))
    assert response.model_spec.signature_name == "serving_default"


def test_output_filter_selects(channel):
    feeds = {"seed": np.array([1], np.int64), "temperature": np.array([1], np.float32)}
    assert set(predict(channel, predict_request("generate", output_filter=["z"], **feeds)).outputs) == {"z"}
    assert set(predict(channel, predict_request("generate", **feeds)).outputs) == {"z", "mel"}


def _without_spec():
    request = predict_request(z=Z)
    request.ClearField("model_spec")
    return request


def _labelled():
    request = predict_request(z=Z)
    request.model_spec.version_label = "stable"
    return request


def _unparsable():
    request = predict_request(z=Z)
    request.inputs["z"].tensor_content = b"123"
    return request


def _huge():
    request = predict_request(z=Z)
    request.inputs["z"].tensor_content = b""
    del request.inputs["z"].tensor_shape.dim[:]
    request.inputs["z"].tensor_shape.dim.add(size=1 << 40)
    request.inputs["z"].tensor_shape.dim.add(size=8)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (_without_spec(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict_request(name="", z=Z), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict_request(name="other", z=Z), "NOT_FOUND", "Servable not found for request: Latest(other)"),
        (predict_request(version=9, z=Z), "NOT_FOUND", "Servable not found for request: Specific(vae, 9)"),
        (_labelled(), "INVALID_ARGUMENT", "Unrecognized servable version label: stable"),
        (predict_request("nope", z=Z), "FAILED_PRECONDITION", 'Serving signature key "nope" not found.'),
        (
            predict_request(),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({z}). Sent extra: {}. Missing but required: {z}.",
        ),
        (
            predict_request(z=Z, extra=Z),
            "INVALID_ARGUMENT",
            "input size does not match signature: 2!=1 len({extra,z}) != len({z}). "
            "Sent extra: {extra}. Missing but required: {}.",
        ),
        (predict_request(other=Z), "INVALID_ARGUMENT", "Missing but required: {z}"),
        (_unparsable(), "INVALID_ARGUMENT", "tensor parsing error: z"),
        (_huge(), "INVALID_ARGUMENT", "tensor parsing error: z"),
        (
            predict_request(z=Z, output_filter=["nope"]),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: nope Outputs expected to be in the set {mel}.",
        ),
        (predict_request(z=Z, output_filter=["mel", "mel"]), "INVALID_ARGUMENT", "duplicate output tensor alias: mel"),
        (predict_request(z=Z.astype(str)), "INVALID_ARGUMENT", "to be float but string is provided"),
        (predict_request(z=Z.astype(np.float64)), "INVALID_ARGUMENT", "to be float but double is provided"),
        (predict_request(z=np.zeros((1, 9), np.float32)), "INVALID_ARGUMENT", "tensor with 9 values"),
        # Not two rows of eight.
        (predict_request(z=np.zeros((1, 16), np.float32)), "INVALID_ARGUMENT", "tensor with 16 values"),
        (predict_request(z=np.zeros((2000, 8), np.float32)), "INVALID_ARGUMENT", "2000 rows"),
        (b"\xff\xff\xff garbage", "INTERNAL", "not a message"),
    ],
)
def test_predict_refuses_as_tensorflow_serving_does(channel, request_, code, says):
    actual, details = refused(channel, request_)
    assert actual == code
    assert says in details
    assert "Traceback" not in details
    assert "File " not in details


def test_checks_come_in_tensorflow_servings_order(channel):
    assert refused(channel, predict_request("nope", name="other"))[0] == "NOT_FOUND"
    assert refused(channel, predict_request("nope", output_filter=["x"]))[0] == "FAILED_PRECONDITION"
    assert refused(channel, predict_request(output_filter=["x"]))[1].startswith("input size")


def test_long_messages_are_cut(channel):
    details = refused(channel, predict_request("n" * 5000, z=Z))[1]
    assert details.endswith("...TRUNCATED")
    assert len(details) == 1024 + len("...TRUNCATED")


def test_batches_larger_than_a_step_and_empty_ones(channel):
    z = np.random.default_rng(0).standard_normal((150, 8)).astype(np.float32)
    whole = _mel(predict(channel, predict_request(z=z)))
    assert whole.shape == (150, 128, 216)
    np.testing.assert_allclose(whole[149:], _mel(predict(channel, predict_request(z=z[149:]))), atol=1e-5)
    assert _mel(predict(channel, predict_request(z=z[:0]))).shape == (0, 128, 216)


def _mel(response):
    return tensors.from_proto(response.outputs["mel"], max_bytes=1 << 30)


def test_metadata(channel):
    request = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "vae"
    path = f"{PREDICTION}/GetModelMetadata"
    response = call(channel, path, request, protos.GetModelMetadataResponse)
    signatures = protos.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 1
    decode = signatures.signature_def["decode"]
    assert decode.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in decode.inputs["z"].tensor_shape.dim] == [-1, 8]


@pytest.mark.parametrize(
    ("fields", "name", "code", "says"),
    [
        ([], "vae", "INVALID_ARGUMENT", "must specify at least one metadata_field"),
        (["weights"], "vae", "INVALID_ARGUMENT", "Metadata field weights is not supported"),
        (["signature_def"], "x", "NOT_FOUND", "Servable not found for request: Latest(x)"),
        (["signature_def"], None, "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)
def test_metadata_refusals(channel, fields, name, code, says):
    request = protos.GetModelMetadataRequest(metadata_field=fields)
    if name:
        request.model_spec.name = name
    with pytest.raises(grpc.RpcError) as info:
        call(channel, f"{PREDICTION}/GetModelMetadata", request, protos.GetModelMetadataResponse)
    assert info.value.code().name == code
    assert says in info.value.details()


def status(channel, name="vae", version=None):
    request = protos.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    response = call(channel, f"{MODEL}/GetModelStatus", request, protos.GetModelStatusResponse)
    return [(v.version, v.State.Name(v.state), v.status.error_message) for v in response.model_version_status]


def test_status(channel):
    assert status(channel) == [(1, "AVAILABLE", "")]
    assert status(channel, version=1) == [(1, "AVAILABLE", "")]
    for version, name, says in (
        (9, "vae", "Could not find version 9 of model vae"),
        (None, "x", "Could not find any versions of model x"),
    ):
        with pytest.raises(grpc.RpcError) as info:
            status(channel, name, version)
        assert info.value.code().name == "NOT_FOUND"
        assert info.value.details() == says


@pytest.mark.parametrize("method", ["Classify", "Regress"])
def test_example_calls_are_refused_as_for_a_model_without_such_signatures(channel, method):
    kind = protos.ClassificationRequest if method == "Classify" else protos.RegressionRequest
    for signature, says in (("", "signature method_name to be"), ("x", "No signature was found with the name: x")):
        request = kind()
        request.model_spec.name, request.model_spec.signature_name = "vae", signature
        with pytest.raises(grpc.RpcError) as info:
            call(channel, f"{PREDICTION}/{method}", request, protos.PredictResponse)
        assert info.value.code().name == "INVALID_ARGUMENT"
        assert says in info.value.details()


def test_multi_inference_is_refused(channel):
    request = protos.MultiInferenceRequest()
    task = request.tasks.add(method_name="tensorflow/serving/predict")
    task.model_spec.name = "vae"
    with pytest.raises(grpc.RpcError) as info:
        call(channel, f"{PREDICTION}/MultiInference", request, protos.PredictResponse)
    assert info.value.code().name == "UNIMPLEMENTED"


def test_health(channel):
    for service in ("", PREDICTION):
        request = protos.HealthCheckRequest(service=service)
        response = call(channel, "grpc.health.v1.Health/Check", request, protos.HealthCheckResponse)
        assert response.status == 1
    request = protos.HealthCheckRequest(service="x")
    with pytest.raises(grpc.RpcError) as info:
        call(channel, "grpc.health.v1.Health/Check", request, protos.HealthCheckResponse)
    assert info.value.code().name == "NOT_FOUND"


def test_the_stock_client_stubs_work(channel):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "vae", "decode"
    request.inputs["z"].CopyFrom(tf.make_tensor_proto(np.ones((2, 8), np.float32)))
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    theirs = tf.make_ndarray(response.outputs["mel"])
    np.testing.assert_array_equal(theirs, _mel(predict(channel, predict_request(z=np.ones((2, 8), np.float32)))))


def test_concurrent_clients_get_their_own_answers(channel):
    rng = np.random.default_rng(3)
    zs = rng.standard_normal((24, 8)).astype(np.float32)
    mels = rng.uniform(size=(24, 128, 216)).astype(np.float32)
    decoded = _mel(predict(channel, predict_request(z=zs)))
    rebuilt = _mel(predict(channel, predict_request("reconstruct", mel=mels)))

    def one(index):
        row, even = index // 2, index % 2 == 0
        request = (
            predict_request(z=zs[row : row + 1]) if even else predict_request("reconstruct", mel=mels[row : row + 1])
        )
        expected = decoded if even else rebuilt
        return np.abs(_mel(predict(channel, request))[0] - expected[row]).max()

    with ThreadPoolExecutor(12) as pool:
        assert max(pool.map(one, range(48))) < 1e-4


def test_garbage_and_oversize_messages_leave_the_server_standing(served, channel):
    rng = np.random.default_rng(0)
    whole = predict_request(z=Z).SerializeToString()
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            data[at] = rng.integers(0, 256)
        with contextlib.suppress(grpc.RpcError):
            predict(channel, bytes(data[: rng.integers(1, len(data) + 1)]))
    assert refused(channel, bytes(served.config.limits.message_bytes + 1))[0] == "RESOURCE_EXHAUSTED"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port)) as raw:
            raw.sendall(rng.bytes(200))
    assert predict(channel, predict_request(z=Z)).model_spec.version.value == 1
