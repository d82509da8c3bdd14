"""The server under test: requests to it, inputs that fit its model, and comparisons of its answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from serving.client.client import Client
from serving.protocol import protos, tensors
from serving.protocol.names import ANY_LABEL, MAX_TENSOR_BYTES, MODEL_NAME, PREDICT, UNLIMITED, signatures_of
from serving.protocol.token import Token
from tfpipe.spec import FeatureSpec

# A version number that no server has reached.
NO_VERSION = 999_999_999
# Largest difference of two answers that should be equal.
TOLERANCE = 1e-4

# A check's name, and the function that raises `Differs` if the server fails it.
Case = tuple[str, Callable[[], None]]


class Differs(Exception):
    """The server does not do what clients need; the message says what it does instead."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server under test.

    Attributes:
        grpc: `HOST:PORT` of its gRPC API.
        rest: `HOST:PORT` of its REST API; None checks gRPC alone.
        model: name of the model on the server.
        timeout_s: deadline of each request, in s.
        token: what the server asks of its clients; None sends none.
    """

    grpc: str
    rest: str | None = None
    model: str = MODEL_NAME
    timeout_s: float = 60.0
    token: str | None = None


class Asker:
    """Requests to the server, about any model."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.channel = grpc.insecure_channel(target.grpc, options=UNLIMITED)
        self._sent = {} if target.token is None else {"authorization": Token(target.token).header}

    def call(self, method: str, request: Any, response: Any) -> Any:
        """Sends a message to `/SERVICE/METHOD` and returns the answer."""
        ask = self.channel.unary_unary(method, response_deserializer=response.FromString)
        return ask(request.SerializeToString(), timeout=self.target.timeout_s, metadata=tuple(self._sent.items()))

    def rest(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Sends a REST request; returns the HTTP status and the JSON of the answer."""
        host, _, port = str(self.target.rest).rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=self.target.timeout_s)
        try:
            data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
            connection.request(verb, path, data, self._sent)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


class Probe(Asker):
    """Requests to a server of a model of `tfpipe export`, and inputs that fit the model."""

    def __init__(self, target: Target, client: Client) -> None:
        super().__init__(target)
        self.client = client
        description = client.describe()
        self.spec, self.latent = FeatureSpec.from_dict(description["spec"]), int(description["latent"])
        self.signatures, self.prior = signatures_of(description), description.get("prior")
        self.version = max(state.version for state in client.status() if state.state == "AVAILABLE")
        rng = np.random.default_rng(0)
        self.z = rng.standard_normal((4, self.latent)).astype(np.float32)
        self.mel = rng.uniform(size=(4, *self.spec.mel_shape)).astype(np.float32)

    def draw(self, seeds: list[int]) -> dict[str, NDArray[Any]]:
        """Returns the inputs of `generate` for these seeds."""
        inputs: dict[str, NDArray[Any]] = {
            "seed": np.array(seeds, np.int64),
            "temperature": np.ones(len(seeds), np.float32),
            "label": np.full(len(seeds), ANY_LABEL, np.int32),
        }
        return {alias: inputs[alias] for alias in self.signatures["generate"].inputs}

    def request(self, signature: str = "decode", inputs: dict[str, NDArray[Any]] | None = None, **options: Any) -> Any:
        """Returns a Predict request.

        Args:
            signature: name of the signature.
            inputs: arrays by input; None is one row for `decode`.
            options: `name`, `version` or `label` of the model, and `output_filter`.
        """
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

    def predict(self, request: Any) -> Any:
        """Sends a Predict request and returns the answer."""
        return self.call(PREDICT, request, protos.PredictResponse)

    def outputs(self, request: Any) -> dict[str, NDArray[Any]]:
        """Sends a Predict request and returns its outputs as arrays."""
        answer = self.predict(request).outputs
        return {alias: tensors.from_proto(proto, max_bytes=MAX_TENSOR_BYTES) for alias, proto in answer.items()}


def refused(ask: Callable[[], object], code: str, says: str) -> None:
    """Requires that a gRPC call fails with the status `code`, and with a message that contains `says`."""
    try:
        ask()
    except grpc.RpcError as error:
        found, text = error.code().name, error.details() or ""
        require(found == code and says in text, f"{found} {text[:200]!r}, not {code} {says!r}")
    else:
        raise Differs("it answers")


def rest_refused(ask: Callable[[], tuple[int, Any]], status: int, says: str) -> None:
    """Requires that a REST request is refused with an HTTP status, and with a message that contains `says`."""
    found, body = ask()
    text = body.get("error", "") if isinstance(body, dict) else ""
    require(found == status and bool(text) and says in text, f"{found} {str(body)[:200]!r}, not {status} {says!r}")


def close(actual: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """Requires that two arrays differ by no more than `TOLERANCE`."""
    if actual.shape != expected.shape:
        raise Differs(f"{what}: shapes {actual.shape} and {expected.shape}")
    difference = float(np.max(np.abs(actual - expected), initial=0.0))
    require(difference <= TOLERANCE, f"{what}: differ by {difference:.2g}")


def require(holds: bool, otherwise: str) -> None:
    """Raises `Differs` with the message `otherwise` unless `holds`."""
    if not holds:
        raise Differs(otherwise)
