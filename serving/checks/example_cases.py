"""Checks of Classify, Regress and MultiInference on the model of `serving.checks.api_model`.

The expected answers are those of TensorFlow Serving's `classifier.cc`, `regressor.cc`, `multi_inference.cc` and
`json_tensor.cc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from serving.checks.json_cases import Refused, answers
from serving.checks.probe import Asker, Case, refused, require
from serving.protocol import protos
from serving.protocol.names import CLASSIFY, PREDICT_METHOD, PREDICTION_SERVICE, REGRESS

_BAD = "INVALID_ARGUMENT"
_MIXED = Refused("Unexpected element type")
_KINDS = {
    "Classify": (protos.ClassificationRequest, protos.ClassificationResponse),
    "Regress": (protos.RegressionRequest, protos.RegressionResponse),
    "MultiInference": (protos.MultiInferenceRequest, protos.MultiInferenceResponse),
}
# Method, name of the case, body, and what is expected.
_BODIES: tuple[tuple[str, str, str, Any], ...] = (
    ("regress", "an example", '"examples": [{"x": 80.0}]', {"results": [42.0]}),
    ("regress", "a value in a list", '"examples": [{"x": [80.0]}]', {"results": [42.0]}),
    ("regress", "several examples", '"examples": [{"x": 80.0}, {"x": 20.0}]', {"results": [42.0, 12.0]}),
    ("regress", "an example without features", '"examples": [{}]', {"results": [2.0]}),
    ("regress", "a feature that the model does not use", '"examples": [{"x": 2.0, "z": "a"}]', {"results": [3.0]}),
    ("regress", "a context", '"context": {"x": 10.0}, "examples": [{}, {"z": 1}]', {"results": [7.0, 7.0]}),
    (
        "regress",
        "an example and a context",
        '"context": {"x": 10.0}, "examples": [{"x": 2.0}]',
        {"results": [3.0]},
    ),
    ("regress", "NaN", '"examples": [{"x": NaN}]', {"results": [float("nan")]}),
    ("classify", "an example", '"examples": [{"x": 80.0}]', {"results": [[["80.0", 42.0]]]}),
    ("classify", "several examples", '"examples": [{"x": 2.0}, {}]', {"results": [[["2.0", 3.0]], [["0.0", 2.0]]]}),
    ("regress", "no examples", '"examples": []', Refused("'examples' value is an empty array")),
    ("regress", "an object in place of examples", '"examples": {"x": 1.0}', Refused("to be an list/array")),
    ("regress", "no key for examples", '"more": 1', Refused("key 'examples' is expected and was not found")),
    ("regress", "an example that is a number", '"examples": [1.0]', Refused("Example must be JSON object")),
    ("regress", "an example that is a list", '"examples": [[1.0]]', Refused("Example must be JSON object")),
    ("regress", "a context that is a list", '"context": [1], "examples": [{}]', Refused("must be JSON object")),
    ("regress", "null as a feature", '"examples": [{"x": null}]', Refused("unexpected JSON type")),
    ("regress", "nested lists as a feature", '"examples": [{"x": [[1.0]]}]', Refused("unexpected JSON type")),
    ("regress", "an object as a feature", '"examples": [{"x": {"y": 1.0}}]', Refused("unexpected JSON type")),
    (
        "regress",
        "text and numbers in one feature",
        '"examples": [{"x": ["a", 1.0]}]',
        _MIXED,
    ),
    (
        "regress",
        "whole numbers in a float feature",
        '"examples": [{"x": [1.0, 2]}]',
        _MIXED,
    ),
    (
        "regress",
        "a number past 64 bits",
        '"examples": [{"x": 9223372036854775808}]',
        Refused("Only int64 is"),
    ),
    ("regress", "a double past floats", '"examples": [{"x": 1e308}]', Refused("without loss of precision")),
    ("classify", "no examples", '"examples": []', Refused("'examples' value is an empty array")),
)


def example_cases(asker: Asker) -> Iterator[Case]:
    """Yields the checks, those of REST too if the target has it."""
    for name, request, expected in _answered(asker.target.model):
        yield name, partial(_answered_with, asker, name.partition(":")[0], request, expected)
    for name, request, code, says in _refusals(asker.target.model):
        yield f"{name} is refused", partial(refused, partial(_call, asker, name.partition(":")[0], request), code, says)
    if not asker.target.rest:
        return
    for method, name, fields, expected in _BODIES:
        body = f'{{"signature_name": "{method}", {fields}}}'
        yield f"JSON, {method}: {name}", partial(answers, asker, body, expected, method=method)
    for method, signature, says in (
        ("regress", "nope", "No signature was found with the name: nope"),
        ("classify", "nope", "No signature was found with the name: nope"),
        ("regress", "classify", "Expected regression signature method_name"),
        ("classify", "regress", "Expected classification signature method_name"),
        ("regress", "half_plus_two", ""),
    ):
        body = f'{{"signature_name": "{signature}", "examples": [{{"x": 1.0}}]}}'
        yield f"JSON, {method}: the signature {signature}", partial(answers, asker, body, Refused(says), method=method)


def _answered(model: str) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yields name, request, and the answer as `_plain` gives it."""
    yield "Regress: an example", _request(model, "Regress", "regress", 80.0), [42.0]
    yield "Regress: several examples", _request(model, "Regress", "regress", 80.0, 20.0, 2.0), [42.0, 12.0, 3.0]
    yield "Regress: an example without features", _request(model, "Regress", "regress", None), [2.0]
    context = protos.RegressionRequest()
    context.model_spec.name, context.model_spec.signature_name = model, "regress"
    listed = context.input.example_list_with_context
    _add(listed.context, 10.0)
    for value in (None, 2.0):
        _add(listed.examples.add(), value)
    yield "Regress: examples with a context", context, [7.0, 3.0]
    yield "Classify: an example", _request(model, "Classify", "classify", 80.0), [[("80.0", 42.0)]]
    two = _request(model, "Classify", "classify", 2.0, None)
    yield "Classify: several examples", two, [[("2.0", 3.0)], [("0.0", 2.0)]]
    yield "Classify: scores without labels", _request(model, "Classify", "scores", 80.0), [[("", 42.0)]]
    both = _tasks((model, "regress", REGRESS), (model, "classify", CLASSIFY))
    yield "MultiInference: a regression and a classification", both, [[42.0], [[("80.0", 42.0)]]]
    yield "MultiInference: one task", _tasks((model, "scores", CLASSIFY)), [[[("", 42.0)]]]


def _refusals(model: str) -> Iterator[tuple[str, Any, str, str]]:
    """Yields name, request, status code and part of the message."""
    for method, own, other in (("Regress", "regress", "classify"), ("Classify", "classify", "regress")):
        kind = "regression" if method == "Regress" else "classification"
        yield f"{method}: no example", _request(model, method, own), _BAD, "Input is empty."
        nothing = _request(model, method, own, 1.0)
        nothing.ClearField("input")
        yield f"{method}: no input", nothing, _BAD, "Input is empty."
        unknown = "No signature was found with the name: nope"
        yield f"{method}: an unknown signature", _request(model, method, "nope", 1.0), _BAD, unknown
        wrong = f"Expected {kind} signature method_name to be"
        yield f"{method}: a signature of the other method", _request(model, method, other, 1.0), _BAD, wrong
        yield f"{method}: a signature of Predict", _request(model, method, "total", 1.0), _BAD, ""
        yield f"{method}: an unknown model", _request("nope", method, own, 1.0), "NOT_FOUND", "Latest(nope)"
        spec = _request(model, method, own, 1.0)
        spec.ClearField("model_spec")
        yield f"{method}: a request without a model", spec, _BAD, "Missing ModelSpec"
    one = (model, "regress", REGRESS)
    yield "MultiInference: no task", protos.MultiInferenceRequest(), _BAD, ""
    yield "MultiInference: a task twice", _tasks(one, one), _BAD, "Duplicate evaluation of signature: regress"
    apart = _tasks(one, ("other", "classify", CLASSIFY))
    yield "MultiInference: tasks of two models", apart, _BAD, "must access the same model name"
    unknown = _tasks((model, "nope", REGRESS))
    yield "MultiInference: an unknown signature", unknown, _BAD, "Requested signature not found in model graph: nope"
    predict = _tasks((model, "regress", PREDICT_METHOD))
    yield "MultiInference: a task of Predict", predict, "UNIMPLEMENTED", "Unsupported signature method_name"
    empty = _tasks(one)
    empty.ClearField("input")
    yield "MultiInference: no input", empty, _BAD, "Input is empty."


def _request(model: str, method: str, signature: str, *values: float | None) -> Any:
    request = _KINDS[method][0]()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    request.input.example_list.SetInParent()
    for value in values:
        _add(request.input.example_list.examples.add(), value)
    return request


def _tasks(*tasks: tuple[str, str, str]) -> Any:
    request = protos.MultiInferenceRequest()
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = model, signature
    _add(request.input.example_list.examples.add(), 80.0)
    return request


def _add(example: Any, value: float | None) -> None:
    if value is not None:
        example.features.feature["x"].float_list.value.append(value)


def _call(asker: Asker, method: str, request: Any) -> Any:
    return asker.call(f"/{PREDICTION_SERVICE}/{method}", request, _KINDS[method][1])


def _answered_with(asker: Asker, method: str, request: Any, expected: list[Any]) -> None:
    response = _call(asker, method, request)
    if method == "MultiInference":
        found = [_plain(getattr(result, result.WhichOneof("result"))) for result in response.results]
    else:
        found = _plain(response.result)
        require(response.model_spec.name == asker.target.model, f"it names the model {response.model_spec.name!r}")
    require(found == expected, f"it answers {found}, not {expected}")


def _plain(result: Any) -> list[Any]:
    """Returns a ClassificationResult or a RegressionResult as lists."""
    if hasattr(result, "regressions"):
        return [entry.value for entry in result.regressions]
    return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]
