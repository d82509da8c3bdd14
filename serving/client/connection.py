"""A gRPC connection to a server: tries again while the server is unavailable, and raises errors of our own."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# gRPC would write its own messages about lost connections to stderr.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from serving.protocol.names import UNLIMITED
from serving.protocol.token import Token
from tfpipe.errors import ServingError, UsageError, translate_os_errors

# The waits between tries grow from the first to the longest; after `_QUIET_S` of waiting, `on_wait` is called.
_FIRST_WAIT_S, _LONGEST_WAIT_S, _QUIET_S = 0.05, 2.0, 2.0


class ServerUnavailableError(ServingError):
    """No server answers at the address, or it has too much to do."""


class DeadlineExceededError(ServingError):
    """The answer did not come in time."""


class ModelNotFoundError(ServingError):
    """The server does not serve that model or version."""


class RequestRefusedError(ServingError):
    """The server, or a model in this process, says that the request is wrong."""


class SignatureNotFoundError(RequestRefusedError):
    """The model has no such signature."""


class ServerFailedError(ServingError):
    """The server or the model failed."""


# How TensorFlow Serving begins its message.
_NO_SIGNATURE = re.compile(r'Serving signature key ".*" not found')
_ERRORS: dict[Any, type[ServingError]] = {
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: RequestRefusedError,
    grpc.StatusCode.FAILED_PRECONDITION: RequestRefusedError,
    grpc.StatusCode.OUT_OF_RANGE: RequestRefusedError,
    grpc.StatusCode.UNIMPLEMENTED: RequestRefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RequestRefusedError,
    grpc.StatusCode.PERMISSION_DENIED: RequestRefusedError,
    grpc.StatusCode.UNAUTHENTICATED: RequestRefusedError,
}


class ClientTls(NamedTuple):
    """PEM files for TLS.

    Attributes:
        ca: certificate authority that signed the server's certificate.
        cert: certificate of the client, if the server asks for one.
        key: private key of `cert`.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class Connection:
    """A gRPC connection.

    Args:
        target: `HOST:PORT` of the server.
        timeout_s: deadline of a call including its retries, in s.
        on_wait: is called once with a sentence when a call has waited for the server for two seconds.
        tls: certificates; None connects without TLS.
        token: what the server asks of its clients; None sends none.

    Raises:
        UsageError: `tls` has a certificate without its key, or a file of it cannot be read; or the token is not valid.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float,
        on_wait: Callable[[str], object] | None,
        tls: ClientTls | None,
        token: str | None = None,
    ) -> None:
        self._metadata = None if token is None else [("authorization", Token(token).header)]
        self._target, self._timeout_s, self._on_wait = target, timeout_s, on_wait
        self._channel = (
            grpc.insecure_channel(target, options=UNLIMITED)
            if tls is None
            else grpc.secure_channel(target, _credentials(tls), options=UNLIMITED)
        )

    def method(self, path: str, read: Callable[[bytes], Any]) -> Any:
        """Returns a function that sends a request to `path` and returns what `read` makes of the answer's bytes."""
        method = self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=read,
        )
        return lambda request: self._call(method, request)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _call(self, method: Any, request: Any) -> Any:
        """Calls again while the server is UNAVAILABLE, until the next try would be after the deadline."""
        started = time.monotonic()
        deadline, wait, on_wait = started + self._timeout_s, _FIRST_WAIT_S, self._on_wait
        while True:
            try:
                return method(request, timeout=max(0.001, deadline - time.monotonic()), metadata=self._metadata)
            except grpc.RpcError as error:
                pause = wait * random.uniform(0.5, 1.5)
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() + pause > deadline:
                    raise self._serving_error(error) from error
                if on_wait is not None and time.monotonic() + pause > started + _QUIET_S:
                    on_wait(f"{self._target}: no answer yet; trying for {self._timeout_s:g} s")
                    on_wait = None
            time.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _serving_error(self, error: Any) -> ServingError:
        code, kind = error.code(), _ERRORS.get(error.code(), ServerFailedError)
        details = " ".join((error.details() or "").split())
        if kind is RequestRefusedError and _NO_SIGNATURE.match(details):
            kind = SignatureNotFoundError
        if kind is ServerUnavailableError:
            details = f"no answer within {self._timeout_s:g} s ({details}); is a server running there?"
        return kind(f"{self._target}: {code.name}: {details}")


def _credentials(tls: ClientTls) -> Any:
    if (tls.cert is None) != (tls.key is None):
        raise UsageError("a client certificate needs its key, and a key its certificate: give both or neither")
    with translate_os_errors(tls.ca):
        ca, key, cert = (None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)
