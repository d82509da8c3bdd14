"""Classify, Regress and MultiInference over gRPC and REST; codes and texts are TensorFlow Serving's."""

import http.client
import json

import grpc
import numpy as np
import pytest
from serving_tools import Caller

from serving.protocol import protos
from serving.protocol.names import CLASSIFY, PREDICTION_SERVICE, REGRESS
from serving.protocol.status import StatusError
from serving.server.rest import example_json

ANSWERS = {
    "Classify": (protos.ClassificationRequest, protos.ClassificationResponse),
    "Regress": (protos.RegressionRequest, protos.RegressionResponse),
    "MultiInference": (protos.MultiInferenceRequest, protos.MultiInferenceResponse),
}


@pytest.fixture(scope="module")
def served(examples_model, front_end, shared_server):
    return shared_server(examples_model, front_end)


@pytest.fixture
def caller(served):
    with Caller(served.port) as opened:
        yield opened


def add_example(examples, **features):
    example = examples.add()
    for name, value in features.items():
        example.features.feature[name].float_list.value.append(value)


def request(method, signature, *values, name="vae"):
    message = ANSWERS[method][0]()
    message.model_spec.name, message.model_spec.signature_name = name, signature
    for value in values:
        add_example(message.input.example_list.examples, x=value)
    return message


def call(caller, method, message):
    ask = caller.channel.unary_unary(
        f"/{PREDICTION_SERVICE}/{method}", response_deserializer=ANSWERS[method][1].FromString
    )
    return ask(message.SerializeToString(), timeout=60)


def refusal(caller, method, message):
    with pytest.raises(grpc.RpcError) as info:
        call(caller, method, message)
    return info.value.code().name, info.value.details()


def test_classify_gives_labels_and_scores(caller):
    response = call(caller, "Classify", request("Classify", "classify", 20.0, 10.0))
    found = [[(entry.label, entry.score) for entry in row.classes] for row in response.result.classifications]
    assert found == [[("class", 12.0)], [("class", 7.0)]]
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("vae", "classify", 1)
    unlabelled = call(caller, "Classify", request("Classify", "scores", 20.0)).result.classifications
    assert [(entry.label, entry.score) for entry in unlabelled[0].classes] == [("", 12.0)]


def test_regress_gives_values(caller):
    response = call(caller, "Regress", request("Regress", "regress", 80.0, 2.0))
    assert [row.value for row in response.result.regressions] == [42.0, 3.0]


def test_examples_have_the_features_of_their_context_unless_they_set_them(caller):
    message = request("Regress", "regress")
    listed = message.input.example_list_with_context
    listed.context.features.feature["x"].float_list.value.append(10.0)
    add_example(listed.examples, other=1.0)
    add_example(listed.examples, x=80.0)
    assert [row.value for row in call(caller, "Regress", message).result.regressions] == [7.0, 42.0]


def tasks(*signatures, names=("vae", "vae")):
    message = protos.MultiInferenceRequest()
    for (signature, method), name in zip(signatures, names, strict=False):
        task = message.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    add_example(message.input.example_list.examples, x=80.0)
    return message


def test_multi_inference_answers_several_signatures(caller):
    response = call(caller, "MultiInference", tasks(("regress", REGRESS), ("classify", CLASSIFY)))
    first, second = response.results
    assert first.regression_result.regressions[0].value == 42.0
    assert second.classification_result.classifications[0].classes[0].score == 42.0
    assert second.model_spec.signature_name == "classify"


@pytest.mark.parametrize(
    ("method", "message", "code", "says"),
    [
        ("Regress", request("Regress", "nope", 1.0), "INVALID_ARGUMENT", "No signature was found with the name: nope"),
        ("Regress", request("Regress", "regress"), "INVALID_ARGUMENT", "Input is empty."),
        (
            "Regress",
            request("Regress", "text", 1.0),
            "INVALID_ARGUMENT",
            f"Expected regression signature method_name to be {REGRESS}. Was: tensorflow/serving/predict",
        ),
        (
            "Classify",
            request("Classify", "regress", 1.0),
            "INVALID_ARGUMENT",
            f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}",
        ),
        ("Regress", request("Regress", "wrong", 1.0), "INVALID_ARGUMENT", "[batch_size, 1] but got [1,2]"),
        ("Regress", request("Regress", "regress", 1.0, name="nope"), "NOT_FOUND", "Latest(nope)"),
        (
            "MultiInference",
            tasks(("regress", REGRESS), ("regress", REGRESS)),
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress",
        ),
        (
            "MultiInference",
            tasks(("regress", REGRESS), ("scores", CLASSIFY), names=("vae", "other")),
            "INVALID_ARGUMENT",
            "must access the same model name",
        ),
        ("MultiInference", tasks(("nope", REGRESS)), "INVALID_ARGUMENT", "Requested signature not found"),
        ("MultiInference", tasks(("regress", "x")), "UNIMPLEMENTED", "Unsupported signature method_name: x"),
        ("MultiInference", protos.MultiInferenceRequest(), "INVALID_ARGUMENT", "no tasks"),
    ],
)
def test_refusals(caller, method, message, code, says):
    actual, details = refusal(caller, method, message)
    assert actual == code
    assert says in details


def post(served, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", served.rest_port, timeout=60)
    try:
        connection.request("POST", f"/v1/models/vae{path}", json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_rest_answers_classify_and_regress(served):
    examples = [{"x": 80.0}, {"x": [20.0]}]
    body: dict[str, object] = {"signature_name": "regress", "examples": examples}
    assert post(served, ":regress", body) == (200, {"results": [42.0, 12.0]})
    body = {"signature_name": "classify", "examples": examples}
    assert post(served, "/versions/1:classify", body) == (200, {"results": [[["class", 42.0]], [["class", 12.0]]]})
    body = {"signature_name": "regress", "context": {"x": 10.0}, "examples": [{}]}
    assert post(served, ":regress", body) == (200, {"results": [7.0]})
    status, answer = post(served, ":regress", {"signature_name": "classify", "examples": examples})
    assert (status, "Expected regression signature method_name" in answer["error"]) == (400, True)


def test_a_string_without_dimensions_crosses_both_ways(served, caller):
    for value, expected in (("é", "é"), ({"b64": "aGVsbG8="}, "hello")):
        assert post(served, ":predict", {"signature_name": "text", "inputs": value}) == (200, {"outputs": expected})
    answer = caller.predict("text", text=np.array(b"a\x00", object))
    assert answer["text"].shape == ()
    assert answer["text"].item() == b"a\x00"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"signature_name": ["x"], "examples": [{}]}, "'signature_name' key must be a string"),
        ({"context": [{}], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": {}}, "value to be an list/array"),
        ({"examples": []}, "is an empty array"),
        ({"examples": [[{}]]}, "Example must be JSON object"),
        ({"examples": [{"names": [10, None]}]}, "names has element with unexpected JSON type: Null"),
        ({"examples": [{"names": [10, 10.5]}]}, "feature: names expecting type: int64"),
        ({"examples": [{"names": [10, {"test": 10}]}]}, "names has element with unexpected JSON type: Object"),
        ({"examples": [{"names": [[10], 20]}]}, "names has element with unexpected JSON type: Array"),
        ({"examples": [{"names": [20, 2**64 - 1]}]}, "Only int64 is supported"),
        ({"examples": [{"names": 1e308}]}, "loss of precision"),
    ],
)
def test_examples_that_cannot_be_read_are_refused(body, says):
    with pytest.raises(StatusError, match=says):
        example_json.read_examples(json.dumps(body).encode(), protos.RegressionRequest())


def test_features_take_the_type_of_their_values():
    message = protos.ClassificationRequest()
    features = b'"a": ["x", {"b64": "aGVsbG8="}], "b": [1.5, NaN, -Infinity], "c": [1, true, false], "d": 2'
    body = b'{"examples": [{%b}]}' % features
    example_json.read_examples(body, message)
    features = message.input.example_list.examples[0].features.feature
    assert features["a"].bytes_list.value == [b"x", b"hello"]
    np.testing.assert_array_equal(features["b"].float_list.value, [1.5, np.nan, -np.inf])
    assert features["c"].int64_list.value == [1, 1, 0]
    assert features["d"].int64_list.value == [2]


def test_openapi_names_the_signatures_that_take_examples(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.rest_port, timeout=30)
    connection.request("GET", "/openapi.json")
    paths = json.loads(connection.getresponse().read())["paths"]
    connection.close()
    for verb, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        operation = paths[f"/v1/models/vae:{verb}"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        names = body["properties"]["signature_name"]["enum"]
        assert names
        with served.catalog.use("vae", None) as model:
            assert names == sorted(key for key, one in model.signatures.items() if one.definition.method_name == method)
