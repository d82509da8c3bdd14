"""A client of a served model: NumPy arrays in and out, without TensorFlow.

It works with `tfpipe serve`, and with any other server that speaks TensorFlow Serving's gRPC API and serves a model of
`tfpipe export`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from serving.client.answers import VersionState
from serving.client.connection import ClientTls, Connection, ServerFailedError
from serving.client.vae import Vae
from serving.protocol import protos, tensors, wire
from serving.protocol.names import MAX_TENSOR_BYTES, MODEL_NAME, MODEL_SERVICE, PREDICT
from tfpipe.spec import FeatureSpec


class Client(Vae):
    """Asks a served model. Threads may share a client; `with Client(...)` closes it at the end.

    A large batch is sent in several requests. While the server is unavailable, a request is tried again with growing
    waits until its deadline.

    Args:
        target: `HOST:PORT` of the server's gRPC API.
        model: name of the model on the server.
        version: version of the model; None asks the newest.
        timeout_s: deadline of a request including its retries, in s. Each request of a large batch has its own.
        expected_spec: if given, a model with another feature spec is refused.
        on_wait: is called once with a sentence when a request has waited for the server for two seconds.
        tls: certificates; None connects without TLS.
        token: what the server asks of its clients (`--auth_token_file`); None sends none. Without TLS it travels in
            plain text.

    Raises:
        UsageError: `tls` has a certificate without its key, or a file of it cannot be read; or the token is not valid.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = MODEL_NAME,
        version: int | None = None,
        timeout_s: float = 30.0,
        expected_spec: FeatureSpec | None = None,
        on_wait: Callable[[str], object] | None = None,
        tls: ClientTls | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__(target, expected_spec=expected_spec)
        self.model, self.version = model, version
        self._connection = Connection(target, timeout_s=timeout_s, on_wait=on_wait, tls=tls, token=token)
        self._predict = self._connection.method(PREDICT, wire.read_response)
        self._status = self._connection.method(
            f"/{MODEL_SERVICE}/GetModelStatus", protos.GetModelStatusResponse.FromString
        )

    def status(self) -> list[VersionState]:
        """Returns the state of each version that the server knows, newest first."""
        request = protos.GetModelStatusRequest()
        self._name(request.model_spec)
        return [
            VersionState(entry.version, entry.State.Name(entry.state), entry.status.error_message)
            for entry in self._status(request).model_version_status
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        request = protos.PredictRequest()
        self._name(request.model_spec)
        request.model_spec.signature_name = signature
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tensors.to_proto(array))
        response = self._predict(request)
        try:
            return {
                alias: tensors.from_proto(proto, max_bytes=MAX_TENSOR_BYTES, numbers=response.contents.get(alias))
                for alias, proto in response.message.outputs.items()
            }
        except tensors.TensorError as error:
            raise ServerFailedError(f"{self.target}: the answer cannot be read ({error})") from error

    def _name(self, model_spec: Any) -> None:
        model_spec.name = self.model
        if self.version is not None:
            model_spec.version.value = self.version
