"""Does a server speak TensorFlow Serving's API as clients of `tfpipe export`'s models need it?

Asks any server that serves such a model, embedded or stock: codes exactly,
texts in substance, answers against each other. Loads no TensorFlow. Harmless:
nothing is loaded, unloaded or overloaded.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from serving.client.client import UNLIMITED, Client
from serving.protocol import protos, tensors
from tfpipe.errors import TfpipeError
from tfpipe.spec import FeatureSpec

_PREDICTION, _MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
_SIGNATURES = {"encode", "encode_audio", "decode", "decode_audio", "reconstruct", "serving_default", "generate", "spec"}
# A version that no server has reached.
_NO_VERSION = 999_999_999
_MAX_TENSOR_BYTES = 2**31
# Larger than the 4 MiB that gRPC allows unless told.
_MANY_WINDOWS = 64
_TOLERANCE = 1e-4


class Differs(Exception):
    """The server does something else; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server under test.

    Attributes:
        grpc: `HOST:PORT` of its gRPC API.
        rest: `HOST:PORT` of its REST API, or None to leave that out.
        model: the model's name there.
        timeout_s: deadline of each request, s.
    """

    grpc: str
    rest: str | None = None
    model: str = "vae"
    timeout_s: float = 60.0


def conformance(target: Target) -> Iterator[tuple[str, str]]:
    """Runs all checks.

    Yields:
        The name of each, and what differs; empty where nothing does.

    Raises:
        ServingError: no server, or no such model of `tfpipe export`.
    """
    with ExitStack() as stack:
        client = stack.enter_context(Client(target.grpc, model=target.model, timeout_s=target.timeout_s))
        asked = _Asked(target, client)
        stack.callback(asked.channel.close)
        checks = dict(_grpc_checks(asked))
        if target.rest:
            checks |= dict(_rest_checks(asked))
        for name, check in checks.items():
            try:
                check()
            except Differs as error:
                yield name, str(error)
            except (grpc.RpcError, TfpipeError, OSError, KeyError, ValueError) as error:
                yield name, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            else:
                yield name, ""


class _Asked:
    """Requests to the server, and inputs that fit its model."""

    def __init__(self, target: Target, client: Client) -> None:
        self.target, self.client = target, client
        description = client.describe()
        self.spec, self.latent = FeatureSpec.from_dict(description["spec"]), int(description["latent"])
        self.version = max(state.version for state in client.status() if state.state == "AVAILABLE")
        rng = np.random.default_rng(0)
        self.z = rng.standard_normal((4, self.latent)).astype(np.float32)
        self.mel = rng.uniform(size=(4, *self.spec.mel_shape)).astype(np.float32)
        self.channel = grpc.insecure_channel(target.grpc, options=UNLIMITED)

    def request(self, signature: str = "decode", inputs: dict[str, NDArray[Any]] | None = None, **options: Any) -> Any:
        """A Predict request; without inputs, one that `decode` answers."""
        request = protos.PredictRequest(output_filter=options.pop("output_filter", ()))
        request.model_spec.name = options.pop("name", self.target.model)
        request.model_spec.signature_name = signature
        if "version" in options:
            request.model_spec.version.value = options["version"]
        if "label" in options:
            request.model_spec.version_label = options["label"]
        for alias, array in ({"z": self.z[:1]} if inputs is None else inputs).items():
            request.inputs[alias].CopyFrom(tensors.to_proto(array))
        return request

    def call(self, method: str, request: Any, response: Any) -> Any:
        """Sends a message, or bytes, to `SERVICE/METHOD`."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        ask = self.channel.unary_unary(f"/{method}", response_deserializer=response.FromString)
        return ask(data, timeout=self.target.timeout_s)

    def predict(self, request: Any) -> Any:
        """Sends a Predict request."""
        return self.call(f"{_PREDICTION}/Predict", request, protos.PredictResponse)

    def outputs(self, request: Any) -> dict[str, NDArray[Any]]:
        """Returns a Predict request's outputs as arrays."""
        answer = self.predict(request).outputs
        return {alias: tensors.from_proto(proto, max_bytes=_MAX_TENSOR_BYTES) for alias, proto in answer.items()}

    def rest(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns status and JSON of a REST request."""
        host, _, port = str(self.target.rest).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=self.target.timeout_s)
        try:
            connection.request(verb, path, body if body is None or isinstance(body, str) else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


Check = Callable[[], None]


def _grpc_checks(asked: _Asked) -> Iterator[tuple[str, Check]]:
    yield "Predict names model, version and signature", partial(_names_what_it_ran, asked)
    yield "Predict without a signature runs serving_default", partial(_default_signature, asked)
    yield "Predict gives the outputs that the filter names", partial(_filtered, asked)
    yield "Predict takes typed values as well as tensor_content", partial(_typed_values, asked)
    yield "a row's answer does not depend on its batch", partial(_rows_alone, asked)
    yield "an empty batch has an empty answer", partial(_empty_batch, asked)
    yield f"{_MANY_WINDOWS} spectrograms cross in one message", partial(_large_message, asked)
    yield "audio goes in and comes out", partial(_audio, asked)
    yield "concurrent signatures get their own answers", partial(_concurrent, asked)
    for name, request, code, says in _predict_refusals(asked):
        yield f"Predict refuses {name}", partial(_refused, partial(asked.predict, request), code, says)
    yield "GetModelMetadata describes the signatures", partial(_metadata, asked)
    for name, request, code, says in _metadata_refusals(asked):
        yield (
            f"GetModelMetadata refuses {name}",
            partial(_refused, partial(_ask_metadata, asked, request), code, says),
        )
    yield "GetModelStatus tells the state of versions", partial(_status, asked)
    for name, model, version, says in (
        ("an unknown model", "no-such-model", None, "Could not find any versions of model no-such-model"),
        (
            "an unknown version",
            asked.target.model,
            _NO_VERSION,
            f"Could not find version {_NO_VERSION} of model {asked.target.model}",
        ),
    ):
        yield (
            f"GetModelStatus refuses {name}",
            partial(_refused, partial(_ask_status, asked, model, version), "NOT_FOUND", says),
        )
    for method, request_class in (
        ("Classify", protos.ClassificationRequest),
        ("Regress", protos.RegressionRequest),
    ):
        yield (
            f"{method} refuses a model without such signatures",
            partial(_refused, partial(_classify, asked, method, request_class), "INVALID_ARGUMENT", ""),
        )


def _predict_refusals(asked: _Asked) -> Iterator[tuple[str, Any, str, str]]:
    """Name, request, code, and what its text holds; codes of checks, in the order of the server's checks."""
    model, z = asked.target.model, asked.z[:1]
    without = asked.request()
    without.ClearField("model_spec")
    unparsable = asked.request()
    unparsable.inputs["z"].tensor_content = b"123"
    bad, size = "INVALID_ARGUMENT", "input size does not match signature"
    yield "a request without a model", without, bad, "Missing ModelSpec"
    yield "an empty model name", asked.request(name=""), bad, "ModelSpec has no name specified."
    latest, specific = "Servable not found for request: Latest(nope)", f"Specific({model}, {_NO_VERSION})"
    yield "an unknown model", asked.request(name="nope"), "NOT_FOUND", latest
    yield "an unknown version", asked.request(version=_NO_VERSION), "NOT_FOUND", specific
    label = "Unrecognized servable version label: nope"
    yield "an unknown label", asked.request(label="nope"), bad, label
    unknown = 'Serving signature key "nope" not found.'
    yield "an unknown signature", asked.request("nope"), "FAILED_PRECONDITION", unknown
    yield "a missing input", asked.request(inputs={}), bad, f"{size}: 0!=1"
    yield "an input too many", asked.request(inputs={"z": z, "more": z}), bad, f"{size}: 2!=1"
    yield "an input of another name", asked.request(inputs={"more": z}), bad, ""
    yield "a tensor that cannot be read", unparsable, bad, "tensor parsing error: z"
    no_output = "output tensor alias not found in signature: nope"
    yield "an output that is not there", asked.request(output_filter=["nope"]), bad, no_output
    twice = "duplicate output tensor alias: mel"
    yield "an output asked for twice", asked.request(output_filter=["mel", "mel"]), bad, twice
    yield "strings for numbers", asked.request(inputs={"z": z.astype(str)}), bad, ""
    yield "doubles for floats", asked.request(inputs={"z": z.astype(np.float64)}), bad, ""
    yield "a latent of another size", asked.request(inputs={"z": np.zeros((1, asked.latent + 1), np.float32)}), bad, ""


def _names_what_it_ran(asked: _Asked) -> None:
    spec = asked.predict(asked.request()).model_spec
    found = (spec.name, spec.version.value, spec.signature_name)
    _require(found == (asked.target.model, asked.version, "decode"), f"it says {found}")


def _default_signature(asked: _Asked) -> None:
    inputs = {"mel": asked.mel[:1]}
    default, named = asked.outputs(asked.request("", inputs)), asked.outputs(asked.request("reconstruct", inputs))
    _close(default["mel"], named["mel"], "serving_default and reconstruct")


def _filtered(asked: _Asked) -> None:
    inputs = {"seed": np.arange(1), "temperature": np.ones(1, np.float32)}
    for wanted in (["z"], ["z", "mel"], []):
        found = set(asked.outputs(asked.request("generate", inputs, output_filter=wanted)))
        _require(found == set(wanted or ["z", "mel"]), f"for {wanted} it gives {sorted(found)}")


def _typed_values(asked: _Asked) -> None:
    typed = asked.request()
    typed.inputs["z"].tensor_content = b""
    typed.inputs["z"].float_val.extend(asked.z[0].tolist())
    _close(asked.outputs(typed)["mel"], asked.outputs(asked.request())["mel"], "the two ways")


def _rows_alone(asked: _Asked) -> None:
    together = asked.outputs(asked.request(inputs={"z": asked.z}))["mel"]
    for row, z in enumerate(asked.z):
        _close(together[row], asked.outputs(asked.request(inputs={"z": z[np.newaxis]}))["mel"][0], f"row {row}")
    seeds = np.array([7, -3, 7, 2**62], np.int64)
    made = asked.client.generate(seeds, 1.0)
    for row, seed in enumerate(seeds):
        _close(made.z[row], asked.client.generate([seed], 1.0).z[0], f"the latent of seed {seed}")


def _empty_batch(asked: _Asked) -> None:
    shape = asked.outputs(asked.request(inputs={"z": asked.z[:0]}))["mel"].shape
    _require(shape == (0, *asked.spec.mel_shape), f"its shape is {shape}")


def _large_message(asked: _Asked) -> None:
    mel = np.repeat(asked.mel, _MANY_WINDOWS // len(asked.mel), axis=0)
    answer = asked.outputs(asked.request("encode", {"mel": mel}))["z_mean"]
    _close(answer[-1], asked.outputs(asked.request("encode", {"mel": mel[-1:]}))["z_mean"][0], "the last row")


def _audio(asked: _Asked) -> None:
    spec = asked.spec
    time_s = np.arange(spec.samples) / spec.sample_rate
    tone = 0.3 * np.sin(2 * np.pi * (spec.fmin + spec.fmax) / 8 * time_s)
    encoded = asked.client.encode_audio(tone[np.newaxis])
    _close(encoded.z_mean, asked.client.encode(encoded.mel).z_mean, "encode_audio and encode")
    audio = asked.client.decode_audio(encoded.z_mean, encoded.ref_db)
    _require(audio.shape == (1, spec.samples), f"the audio's shape is {audio.shape}")
    _require(bool(np.isfinite(audio).all()) and float(np.abs(audio).max()) > 0.0, "the audio is not finite, or silent")


def _concurrent(asked: _Asked) -> None:
    """Every thread compares each answer with what it got alone."""
    decoded = [asked.outputs(asked.request(inputs={"z": z[np.newaxis]}))["mel"] for z in asked.z]
    encoded = [asked.outputs(asked.request("encode", {"mel": mel[np.newaxis]}))["z_mean"] for mel in asked.mel]

    def one(number: int) -> None:
        row = number // 2 % len(asked.z)
        if number % 2:
            answer = asked.outputs(asked.request(inputs={"z": asked.z[row : row + 1]}))["mel"]
            _close(answer, decoded[row], f"decode, request {number}")
        else:
            answer = asked.outputs(asked.request("encode", {"mel": asked.mel[row : row + 1]}))["z_mean"]
            _close(answer, encoded[row], f"encode, request {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))


def _ask_metadata(asked: _Asked, request: Any) -> Any:
    return asked.call(f"{_PREDICTION}/GetModelMetadata", request, protos.GetModelMetadataResponse)


def _metadata(asked: _Asked) -> None:
    request = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = asked.target.model
    signatures = protos.SignatureDefMap()
    _ask_metadata(asked, request).metadata["signature_def"].Unpack(signatures)
    missing = _SIGNATURES - set(signatures.signature_def)
    _require(not missing, f"it does not name {', '.join(sorted(missing))}")
    shape = [dim.size for dim in signatures.signature_def["decode"].inputs["z"].tensor_shape.dim]
    _require(shape == [-1, asked.latent], f"z of decode has the shape {shape}")


def _metadata_refusals(asked: _Asked) -> Iterator[tuple[str, Any, str, str]]:
    none = protos.GetModelMetadataRequest()
    none.model_spec.name = asked.target.model
    other = protos.GetModelMetadataRequest(metadata_field=["nope"])
    other.model_spec.name = asked.target.model
    unknown = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    unknown.model_spec.name = "nope"
    yield "a request for no field", none, "INVALID_ARGUMENT", ""
    yield "an unknown field", other, "INVALID_ARGUMENT", "Metadata field nope is not supported"
    yield "an unknown model", unknown, "NOT_FOUND", "Servable not found for request: Latest(nope)"


def _ask_status(asked: _Asked, model: str, version: int | None = None) -> Any:
    request = protos.GetModelStatusRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return asked.call(f"{_MODEL}/GetModelStatus", request, protos.GetModelStatusResponse)


def _status(asked: _Asked) -> None:
    for version in (None, asked.version):
        states = _ask_status(asked, asked.target.model, version).model_version_status
        found = {state.version: state.State.Name(state.state) for state in states}
        _require(found.get(asked.version) == "AVAILABLE", f"it says {found}")


def _classify(asked: _Asked, method: str, request_class: Any) -> None:
    request = request_class()
    request.model_spec.name = asked.target.model
    request.input.example_list.examples.add()
    asked.call(f"{_PREDICTION}/{method}", request, protos.PredictResponse)


def _rest_checks(asked: _Asked) -> Iterator[tuple[str, Check]]:
    yield "REST: rows, columns and gRPC give the same", partial(_rest_predict, asked)
    yield "REST: several outputs are objects by row", partial(_rest_objects, asked)
    yield "REST: status and metadata", partial(_rest_status, asked)
    model = f"/v1/models/{asked.target.model}"
    rows = [asked.z[0].tolist()]
    for name, verb, path, body, code, says in (
        ("an unknown model", "POST", "/v1/models/nope:predict", {"instances": rows}, 404, "Latest(nope)"),
        ("an unknown version", "POST", f"{model}/versions/{_NO_VERSION}:predict", {"instances": rows}, 404, "Specific"),
        ("an unknown label", "POST", f"{model}/labels/nope:predict", {"instances": rows}, 400, "version label: nope"),
        (
            "an unknown signature",
            "POST",
            f"{model}:predict",
            {"signature_name": "nope", "instances": rows},
            400,
            'Serving signature name: "nope" not found in signature def',
        ),
        ("neither rows nor columns", "POST", f"{model}:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("rows and columns", "POST", f"{model}:predict", {"inputs": rows, "instances": rows}, 400, "only one of"),
        ("no rows", "POST", f"{model}:predict", {"instances": []}, 400, "No values in 'instances' array"),
        ("what is no JSON", "POST", f"{model}:predict", "{", 400, "JSON"),
        (
            "ragged rows",
            "POST",
            f"{model}:predict",
            {"signature_name": "decode", "instances": [rows[0], rows[0][1:]]},
            400,
            "",
        ),
        ("an unknown path", "GET", "/v1/nope", None, 400, "Malformed request: GET /v1/nope"),
        ("the status of an unknown model", "GET", "/v1/models/nope", None, 404, "Could not find any versions of model"),
    ):
        yield (
            f"REST refuses {name}",
            partial(_rest_refused, partial(asked.rest, verb, path, body), code, says),
        )


def _rest_predict(asked: _Asked) -> None:
    path, expected = f"/v1/models/{asked.target.model}:predict", asked.outputs(asked.request(inputs={"z": asked.z}))
    for key, answer in (("instances", "predictions"), ("inputs", "outputs")):
        status, body = asked.rest("POST", path, {"signature_name": "decode", key: asked.z.tolist()})
        _require(status == 200 and answer in body, f"{key}: status {status}, {str(body)[:200]}")
        _close(np.asarray(body[answer], np.float32), expected["mel"], key)


def _rest_objects(asked: _Asked) -> None:
    body = {"signature_name": "generate", "instances": [{"seed": seed, "temperature": 1.0} for seed in (1, 2)]}
    status, answer = asked.rest("POST", f"/v1/models/{asked.target.model}:predict", body)
    rows = answer.get("predictions", [])
    _require(
        status == 200 and [set(row) for row in rows] == [{"z", "mel"}] * 2, f"status {status}, {str(answer)[:200]}"
    )
    _close(np.array([row["z"] for row in rows]), asked.client.generate([1, 2]).z, "the latents")


def _rest_status(asked: _Asked) -> None:
    path = f"/v1/models/{asked.target.model}"
    status, body = asked.rest("GET", path)
    states = {entry["version"]: entry["state"] for entry in body.get("model_version_status", [])}
    _require(status == 200 and states.get(str(asked.version)) == "AVAILABLE", f"status {status}, {str(body)[:200]}")
    status, body = asked.rest("GET", f"{path}/metadata")
    named = set(body.get("metadata", {}).get("signature_def", {}).get("signature_def", {}))
    _require(status == 200 and named >= _SIGNATURES, f"metadata: status {status}, signatures {sorted(named)}")


def _rest_refused(ask: Callable[[], tuple[int, Any]], status: int, says: str) -> None:
    found, body = ask()
    text = body.get("error", "") if isinstance(body, dict) else ""
    _require(found == status and bool(text) and says in text, f"{found} {str(body)[:200]!r}, not {status} {says!r}")


def _refused(ask: Callable[[], object], code: str, says: str) -> None:
    try:
        ask()
    except grpc.RpcError as error:
        found, text = error.code().name, error.details() or ""
        _require(found == code and says in text, f"{found} {text[:200]!r}, not {code} {says!r}")
    else:
        raise Differs("it answers")


def _close(actual: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    if actual.shape != expected.shape:
        raise Differs(f"{what}: shapes {actual.shape} and {expected.shape}")
    difference = float(np.max(np.abs(actual - expected), initial=0.0))
    _require(difference <= _TOLERANCE, f"{what}: differ by {difference:.2g}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Differs(otherwise)
