"""Checks of paths, versions and metadata of REST, and of ModelService, on the model of `serving.checks.api_model`.

The expected answers are those of TensorFlow Serving's `http_rest_api_handler.cc` and `get_model_status_impl.cc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from serving.checks.api_model import ECHOED, VERSION
from serving.checks.probe import NO_VERSION, Asker, Case, refused, require, rest_refused
from serving.protocol import protos
from serving.protocol.names import CLASSIFY, MODEL_SERVICE, PREDICT, PREDICT_METHOD, PREDICTION_SERVICE, REGRESS

_BODY = '{"instances": [1.0]}'
_EXAMPLE = '{"signature_name": "regress", "examples": [{"x": 80.0}]}'
_MALFORMED = "Malformed request: "


def path_cases(asker: Asker) -> Iterator[Case]:
    """Yields the checks, those of REST too if the target has it."""
    yield "GetModelMetadata: inputs and outputs by type", partial(_metadata, asker)
    yield "GetModelMetadata: a version by number", partial(_metadata, asker, VERSION)
    yield "GetModelStatus: all versions", partial(_status, asker, None)
    yield "GetModelStatus: a version by number", partial(_status, asker, VERSION)
    for name, method, request, code, says in _refusals(asker.target.model):
        yield f"{name} is refused", partial(refused, partial(_ask, asker, method, request), code, says)
    if not asker.target.rest:
        return
    model = f"/v1/models/{asker.target.model}"
    for path, expected in (
        (f"{model}:predict", {"predictions": [2.5]}),
        (f"{model}/versions/{VERSION}:predict", {"predictions": [2.5]}),
        (f"{model}/versions/0{VERSION}:predict", {"predictions": [2.5]}),
    ):
        yield f"REST: POST {path}", partial(_equal, asker, "POST", path, _BODY, expected)
    yield "REST: POST :regress", partial(_equal, asker, "POST", f"{model}:regress", _EXAMPLE, {"results": [42.0]})
    regress = f"{model}/versions/{VERSION}:regress"
    yield f"REST: POST {regress}", partial(_equal, asker, "POST", regress, _EXAMPLE, {"results": [42.0]})
    state = {"version": str(VERSION), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (model, f"{model}/versions/{VERSION}"):
        yield f"REST: GET {path}", partial(_equal, asker, "GET", path, None, {"model_version_status": [state]})
    for path in (f"{model}/metadata", f"{model}/versions/{VERSION}/metadata"):
        yield f"REST: GET {path}", partial(_rest_metadata, asker, path)
    for verb, path, status, says in _wrong_paths(model):
        body = None if verb != "POST" else _BODY if path.endswith(":predict") else _EXAMPLE
        yield (
            f"REST: {verb} {path} is refused",
            partial(rest_refused, partial(asker.rest, verb, path, body), status, says),
        )


def _wrong_paths(model: str) -> Iterator[tuple[str, str, int, str]]:
    """Yields method, path, status and part of the message."""
    for verb, path in (
        ("GET", "/v1"),
        ("GET", "/v2/models/x"),
        ("GET", f"{model}/versions"),
        ("GET", f"{model}/versions/"),
        ("GET", f"{model}/versions/x"),
        ("GET", f"{model}/versions/-1"),
        ("GET", f"{model}/versions/1.0"),
        ("GET", f"{model}/nope"),
        ("GET", f"{model}/metadata/nope"),
        ("GET", f"{model}:predict"),
        ("GET", f"{model}/versions/{VERSION}:predict"),
        ("POST", "/"),
        ("POST", model),
        ("POST", f"{model}/metadata"),
        ("POST", f"{model}:nope"),
        ("POST", f"{model}:"),
        ("POST", f"{model}/predict"),
        ("POST", f"{model}/versions/x:predict"),
        ("POST", f"{model}/versions/-1:predict"),
        ("POST", f"{model}/versions/:predict"),
        ("POST", f"{model}/versions/{VERSION}"),
        ("POST", f"{model}/versions/{VERSION}:nope"),
        ("POST", "/v1/models/:predict"),
        ("PUT", f"{model}:predict"),
        ("DELETE", model),
        ("PATCH", model),
    ):
        yield verb, path, 400, f"{_MALFORMED}{verb} {path}"
    past_64_bits = f"{1 << 64}"
    yield "GET", f"{model}/versions/{past_64_bits}", 400, "numeric"
    yield "POST", f"{model}/versions/{past_64_bits}:predict", 400, "numeric"
    yield "GET", "/v1/models/nope", 404, "Could not find any versions of model nope"
    missing = f"Could not find version {NO_VERSION} of model"
    yield "GET", f"{model}/versions/{NO_VERSION}", 404, missing
    yield "GET", "/v1/models/nope/metadata", 404, "Latest(nope)"
    yield "GET", f"{model}/versions/{NO_VERSION}/metadata", 404, f"{NO_VERSION})"
    yield "GET", f"{model}/labels/nope/metadata", 400, "Unrecognized servable version label: nope"
    for method in ("predict", "regress", "classify"):
        yield "POST", f"/v1/models/nope:{method}", 404, "Latest(nope)"
        yield "POST", f"{model}/versions/{NO_VERSION}:{method}", 404, f"{NO_VERSION})"
        yield "POST", f"{model}/labels/nope:{method}", 400, "Unrecognized servable version label: nope"


def _refusals(model: str) -> Iterator[tuple[str, str, Any, str, str]]:
    """Yields name, method, request, status code and part of the message."""
    for name, kind in (
        ("Predict", protos.PredictRequest),
        ("Classify", protos.ClassificationRequest),
        ("Regress", protos.RegressionRequest),
    ):
        method = f"/{PREDICTION_SERVICE}/{name}"
        request = kind()
        request.model_spec.name, request.model_spec.version.value = model, NO_VERSION
        yield f"{name}: an unknown version", method, request, "NOT_FOUND", f"{NO_VERSION})"
        request = kind()
        request.model_spec.name, request.model_spec.version_label = model, "nope"
        yield f"{name}: an unknown label", method, request, "INVALID_ARGUMENT", "version label: nope"
        request = kind()
        request.model_spec.signature_name = "regress"
        yield f"{name}: a model without a name", method, request, "INVALID_ARGUMENT", "ModelSpec has no name specified"
    metadata = f"/{PREDICTION_SERVICE}/GetModelMetadata"
    fields = {"metadata_field": ["signature_def"]}
    unnamed = protos.GetModelMetadataRequest(**fields)
    yield "GetModelMetadata: no model", metadata, unnamed, "INVALID_ARGUMENT", "Missing ModelSpec"
    version = protos.GetModelMetadataRequest(**fields)
    version.model_spec.name, version.model_spec.version.value = model, NO_VERSION
    yield "GetModelMetadata: an unknown version", metadata, version, "NOT_FOUND", f"{NO_VERSION})"
    label = protos.GetModelMetadataRequest(**fields)
    label.model_spec.name, label.model_spec.version_label = model, "nope"
    yield "GetModelMetadata: an unknown label", metadata, label, "INVALID_ARGUMENT", "version label: nope"
    both = protos.GetModelMetadataRequest(metadata_field=["signature_def", "nope"])
    both.model_spec.name = model
    says = "Metadata field nope is not supported"
    yield "GetModelMetadata: a field that is unknown", metadata, both, "INVALID_ARGUMENT", says
    status = f"/{MODEL_SERVICE}/GetModelStatus"
    yield "GetModelStatus: no model", status, protos.GetModelStatusRequest(), "INVALID_ARGUMENT", "ModelSpec"
    yield "a method that is unknown", f"/{PREDICTION_SERVICE}/Nope", protos.PredictRequest(), "UNIMPLEMENTED", ""
    yield "a service that is unknown", "/nope.Nope/Predict", protos.PredictRequest(), "UNIMPLEMENTED", ""


def _ask(asker: Asker, method: str, request: Any) -> Any:
    kind = protos.PredictResponse if method == PREDICT else protos.GetModelStatusResponse
    return asker.call(method, request, kind)


def _metadata(asker: Asker, version: int | None = None) -> None:
    request = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = asker.target.model
    if version is not None:
        request.model_spec.version.value = version
    response = asker.call(f"/{PREDICTION_SERVICE}/GetModelMetadata", request, protos.GetModelMetadataResponse)
    spec, signatures = response.model_spec, protos.SignatureDefMap()
    require((spec.name, spec.version.value) == (asker.target.model, VERSION), f"it names {spec}")
    response.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def
    missing = {f"echo_{name}" for name in ECHOED} - set(found)
    require(not missing, f"it does not name {', '.join(sorted(missing))}")
    methods = {name: found[name].method_name for name in ("several", "regress", "classify")}
    require(
        methods == {"several": PREDICT_METHOD, "regress": REGRESS, "classify": CLASSIFY}, f"its methods are {methods}"
    )
    shape = found["half_plus_two"].inputs["x"].tensor_shape
    require([dim.size for dim in shape.dim] == [-1], f"the shape of x is {shape}")
    require(found["echo_int32"].inputs["x"].tensor_shape.unknown_rank, "the shape of echo_int32's x is not unknown")


def _status(asker: Asker, version: int | None) -> None:
    request = protos.GetModelStatusRequest()
    request.model_spec.name = asker.target.model
    if version is not None:
        request.model_spec.version.value = version
    states = asker.call(f"/{MODEL_SERVICE}/GetModelStatus", request, protos.GetModelStatusResponse)
    found = [
        (state.version, state.State.Name(state.state), state.status.error_code) for state in states.model_version_status
    ]
    require(found == [(VERSION, "AVAILABLE", 0)], f"it says {found}")


def _equal(asker: Asker, verb: str, path: str, body: Any, expected: Any) -> None:
    status, found = asker.rest(verb, path, body)
    require((status, found) == (200, expected), f"{status} {str(found)[:300]}")


def _rest_metadata(asker: Asker, path: str) -> None:
    status, body = asker.rest("GET", path)
    require(status == 200 and set(body) == {"model_spec", "metadata"}, f"{status} {str(body)[:200]}")
    spec = {"name": asker.target.model, "signature_name": "", "version": str(VERSION)}
    require(body["model_spec"] == spec, f"it names {body['model_spec']}")
    signatures = body["metadata"]["signature_def"]["signature_def"]
    given = signatures["half_plus_two"]["inputs"]["x"]
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    require((given["dtype"], given["tensor_shape"]) == ("DT_FLOAT", shape), f"x is {given}")
    require(signatures["regress"]["method_name"] == REGRESS, f"regress is {signatures['regress']}")
