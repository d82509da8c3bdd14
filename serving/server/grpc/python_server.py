"""The gRPC server in Python (grpcio), used if the native server is not built or cannot do what the settings ask for.

It is grpcio's asyncio server: a call takes a thread only once its message has
arrived, so calls that never arrive cannot take the threads of others.
"""

from __future__ import annotations

import asyncio
import functools
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from concurrent import futures
from typing import Any, cast

# grpcio's own log lines about a taken port would come before our error, which says more.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from serving.protocol.names import HEALTH_SERVICE
from serving.protocol.status import Code, StatusError
from serving.protocol.token import NO_TOKEN, Token
from serving.server import reflection
from serving.server.admission import SMALL_REQUEST, Call, UnreadAnswers
from serving.server.config_files import Tls
from serving.server.service import Methods
from tfpipe.errors import ServingError

# An answer of at most this many bytes is not counted as unread, so that health and status always find room. The
# native server has the same bound.
SMALL_ANSWER = 4096
# Once room is needed, an answer that was not read for this long is dropped, in s. The native server uses it too.
UNREAD_TIMEOUT_S = 60.0
# Most calls at the same time, on one connection and on all connections together. Further calls wait.
_CALLS_OF_CONNECTION, _CALLS = 256, 16_384
# A call with several messages ends when none has come for this time, in s. The native server has the same bound.
_PAUSE_S = 5.0
# A call whose message has not arrived after this time is ended, in s.
ARRIVAL_S = 60.0
# A connection without calls is closed after this time, in ms; clients connect again by themselves.
_IDLE_MS = 600_000
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
        token: what clients must send, except for health; None lets everyone in.

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
        token: Token | None = None,
    ) -> None:
        self._methods, self._token = methods, token
        self._unread = UnreadAnswers(max_bytes=4 * message_bytes, timeout_s=UNREAD_TIMEOUT_S)
        self._pool = futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="grpc")
        self._server: Any = None
        options: dict[str, int | str] = {
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": message_bytes,
            "grpc.max_send_message_length": -1,
            "grpc.max_concurrent_streams": _CALLS_OF_CONNECTION,
            "grpc.max_connection_idle_ms": _IDLE_MS,
            **dict(channel_arguments),
        }
        address = None if port is None else address_of(host, port)
        self.port: int = _done(self._listen(options, address=address, socket_path=socket_path, tls=tls))

    def start(self) -> None:
        """Begins to answer."""
        _done(self._server.start())

    def stop(self, grace_s: float) -> threading.Event:
        """Takes no new requests; returns an event that is set once those in progress are answered or time is up."""
        stopped = threading.Event()

        def end(_: object) -> None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            stopped.set()

        asyncio.run_coroutine_threadsafe(self._server.stop(grace_s), _loop()).add_done_callback(end)
        return stopped

    async def _listen(
        self, options: dict[str, int | str], *, address: str | None, socket_path: str, tls: Tls | None
    ) -> int:
        """Makes the server, in the loop's thread, and returns its port."""
        self._server = grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=_CALLS)
        handlers: dict[str, dict[str, Any]] = defaultdict(dict)
        for path in self._methods.paths:
            _, service, name = path.split("/")
            handlers[service][name] = (
                grpc.stream_stream_rpc_method_handler(functools.partial(self._converse, path))
                if path in reflection.PATHS
                else grpc.stream_unary_rpc_method_handler(functools.partial(self._answer, path))
            )
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(service, named) for service, named in handlers.items())
        )
        port = 0 if address is None else _bind(self._server, address, tls)
        if socket_path:
            _bind_socket(self._server, socket_path, tls)
        return port

    async def _answer(self, path: str, _: object, context: Any) -> Any:
        """Answers one call. To grpcio it is a stream of messages, so that this can stop waiting for the first."""
        call = Call(context.time_remaining())
        context.add_done_callback(lambda _: call.cancel())
        try:
            self._require_token(path, context)
            data = await _message(context)
            result: bytes = await _loop().run_in_executor(self._pool, self._joined, path, data, call)
            if len(result) > SMALL_ANSWER:
                task = cast("asyncio.Task[Any]", asyncio.current_task())  # every coroutine runs in one
                free = self._unread.add(len(result), functools.partial(_loop().call_soon_threadsafe, task.cancel))
                context.add_done_callback(lambda _: free())
            return result
        except StatusError as error:
            code, message = error.code, error.message
        except RuntimeError:  # the server is stopping, or the system has no more threads
            code, message = Code.UNAVAILABLE, "The server has no thread for the request"
        return await context.abort(_CODES[int(code)], message)

    async def _converse(self, path: str, _: object, context: Any) -> None:
        """Answers a call whose client sends several messages, one after the other, until it sends no more."""
        try:
            self._require_token(path, context)
            while (data := await _next_message(context)) is not None:
                if len(data) > SMALL_REQUEST:
                    raise StatusError(Code.RESOURCE_EXHAUSTED, "Received message larger than max")
                call = Call(context.time_remaining())
                await context.write(await _loop().run_in_executor(self._pool, self._joined, path, data, call))
            return
        except StatusError as error:
            code, message = error.code, error.message
        except RuntimeError:  # the server is stopping, or the system has no more threads
            code, message = Code.UNAVAILABLE, "The server has no thread for the request"
        await context.abort(_CODES[int(code)], message)

    def _require_token(self, path: str, context: Any) -> None:
        """Refuses a client that does not send the token.

        Raises:
            StatusError: UNAUTHENTICATED.
        """
        if self._token is None or path.startswith(f"/{HEALTH_SERVICE}/"):
            return
        sent = dict(context.invocation_metadata() or ()).get("authorization")
        if not self._token.allows(sent if isinstance(sent, str) else None):
            self._methods.entrance.refuse_stranger()
            raise StatusError(Code.UNAUTHENTICATED, NO_TOKEN)

    def _joined(self, path: str, data: bytes, call: Call) -> bytes:
        return b"".join(self._methods.answer(path, data, call))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Returns the event loop of all these servers, which runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="grpc loop", daemon=True).start()
    return loop


async def _message(context: Any) -> bytes:
    """Returns the message of a call.

    Raises:
        StatusError: UNAVAILABLE if it does not arrive in time; INTERNAL if there is none.
    """
    try:
        async with asyncio.timeout(ARRIVAL_S):
            data = await context.read()
    except TimeoutError:
        raise StatusError(Code.UNAVAILABLE, "The request came too slowly") from None
    if data is grpc.aio.EOF:
        raise StatusError(Code.INTERNAL, "The call ended before its message was whole.")
    return bytes(data)


async def _next_message(context: Any) -> bytes | None:
    """Returns the next message of a call, or None if the client sends no more, or none for `_PAUSE_S`."""
    try:
        async with asyncio.timeout(_PAUSE_S):
            data = await context.read()
    except TimeoutError:
        return None
    return None if data is grpc.aio.EOF else bytes(data)


def _done(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine in the loop and returns its result."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


def _bind_socket(server: Any, path: str, tls: Tls | None) -> None:
    """Listens on a Unix socket, in place of one that an earlier server has left.

    Raises:
        ServingError: there is no such folder, it cannot be written, or something else has this path.
    """
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise ServingError(f"{path}: is a file or folder; choose another --grpc_socket_path")
    if not _listen(server, f"unix:{path}", tls):
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
