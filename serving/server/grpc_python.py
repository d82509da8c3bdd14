"""The gRPC server in Python (grpcio), used for TLS, or if the native server is not built."""

from __future__ import annotations

import functools
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from concurrent import futures
from typing import Any
from urllib.parse import quote

# grpcio's own log lines about a taken port would come before our error, which says more.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from serving.protocol.status import StatusError
from serving.server.admission import Call, UnreadAnswers
from serving.server.config_files import Tls
from serving.server.grpc_methods import Methods
from tfpipe.errors import ServingError

# An answer of at most this many bytes is not counted as unread, so that health and status always find room. The
# native server has the same bound.
SMALL_ANSWER = 4096
# Once room is needed, an answer that was not read for this long is dropped, in s. The native server uses it too.
UNREAD_TIMEOUT_S = 60.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class PythonGrpcServer:
    """The gRPC server. It binds its port when it is made, and answers after `start`.

    Args:
        methods: answers the requests.
        message_bytes: largest message that a client may send, in bytes.
        threads: requests handled at the same time.
        host: address to listen on.
        port: 0 picks a free one, None listens on no port.
        socket_path: path of a Unix socket to listen on too; empty means none.
        channel_arguments: further options of grpcio's server.
        tls: certificates; None means plain text.

    Attributes:
        port: the port, 0 if there is none.

    Raises:
        ServingError: the port or the socket cannot be bound, or the certificates cannot be used.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        message_bytes: int,
        threads: int,
        host: str = "127.0.0.1",
        port: int | None = None,
        socket_path: str = "",
        channel_arguments: Sequence[tuple[str, int | str]] = (),
        tls: Tls | None = None,
    ) -> None:
        self._methods = methods
        self._unread = UnreadAnswers(max_bytes=4 * message_bytes, timeout_s=UNREAD_TIMEOUT_S)
        options: dict[str, int | str] = {
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": message_bytes,
            "grpc.max_send_message_length": -1,
        }
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc"),
            options=list({**options, **dict(channel_arguments)}.items()),
        )
        handlers: dict[str, dict[str, Any]] = defaultdict(dict)
        for path in methods.paths:
            _, service, name = path.split("/")
            handlers[service][name] = grpc.unary_unary_rpc_method_handler(functools.partial(self._answer, path))
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(service, named) for service, named in handlers.items())
        )
        self.port = 0 if port is None else _bind(self._server, address_of(host, port), tls)
        if socket_path:
            _bind_socket(self._server, socket_path, tls)

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def stop(self, grace_s: float) -> Any:
        """Takes no new requests; returns an event that is set once those in progress are answered or time is up."""
        return self._server.stop(grace_s)

    def _answer(self, path: str, data: bytes, context: Any) -> Any:
        call = Call(context.time_remaining())
        if not context.add_callback(call.cancel):
            call.cancel()
        try:
            result = b"".join(self._methods.answer(path, data, call))
            if len(result) > SMALL_ANSWER:
                free = self._unread.add(len(result), context.cancel)
                if not context.add_callback(free):
                    free()
            return result
        except StatusError as error:
            code, message = error.code, error.message
        return context.abort(_CODES[int(code)], message)


def _bind_socket(server: Any, path: str, tls: Tls | None) -> None:
    """Listens on a Unix socket, in place of one that an earlier server has left.

    Raises:
        ServingError: there is no such folder, it cannot be written, or something else has this path.
    """
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise ServingError(f"{path}: is a file or folder; choose another --grpc_socket_path")
    if not _listen(server, f"unix:{quote(path)}", tls):
        raise ServingError(
            f"{path}: cannot listen there (its folder is missing or cannot be written, or the path has more than 107 "
            "bytes); choose another --grpc_socket_path"
        )


def _bind(server: Any, address: str, tls: Tls | None) -> int:
    port = _listen(server, address, tls)
    if not port:
        raise cannot_listen(address, "taken, or not an address of this machine", secure=tls is not None)
    return port


def _listen(server: Any, address: str, tls: Tls | None) -> int:
    """Returns the port that was bound, 1 for a Unix socket, or 0 if the address cannot be bound."""
    try:
        bound = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _credentials(tls))
    except (RuntimeError, ValueError):
        return 0
    return int(bound)


def address_of(host: str, port: int) -> str:
    """Returns host and port as one address; an IPv6 host is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(address: str, why: str, *, secure: bool = False) -> ServingError:
    """Returns the error for a gRPC port that cannot be bound."""
    also = ", or the key and certificates of --ssl_config_file do not fit" if secure else ""
    return ServingError(f"{address}: cannot listen there ({why}{also}); choose another --port")


def _credentials(tls: Tls) -> Any:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], root_certificates=tls.client_ca, require_client_auth=tls.client_verify
    )
