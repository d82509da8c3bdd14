"""The HTTP server of REST: waitress, with bounds on what slow clients may hold.

waitress alone stops accepting connections when it has too many, keeps bodies that
never end on the disk, and does not close a connection whose client reads nothing.
Here a new client always gets a connection: if there are too many, the one that has
waited longest for its client is closed.
"""

from __future__ import annotations

import errno
import json
import logging
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

import waitress.channel  # type: ignore[import-untyped]
import waitress.server  # type: ignore[import-untyped]
import waitress.task  # type: ignore[import-untyped]
import waitress.utilities  # type: ignore[import-untyped]
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]

from serving.protocol.token import NO_TOKEN

# Key of an application's environment.
UNSENT = "tfpipe.unsent"
_MAX_CONNECTIONS = 1000
# Connections may use a quarter of the files that this process may open, because models need files too.
_SHARE_OF_FILES = 4
# A client is disconnected if it does nothing for this long, in s: it sends no request, sends no further byte of one, or
# reads nothing of its answer.
_PATIENCE_S = 30.0
# If other answers need the memory, a client is disconnected after it has read nothing for this long, in s.
_SHORT_PATIENCE_S = 5.0
# After the first 30 s, at least this many bytes of a body must arrive in each second.
_SLOWEST_BYTES_PER_S = 64 << 10
# Largest headers of a request, in bytes; they are held while they arrive.
_HEADER_BYTES = 64 << 10
# How often the server looks for clients that are too slow, in s.
_LOOK_S = 5
# waitress writes bodies and answers above this size to files. It is never reached: they stay in memory, which is
# bounded, so that nobody can fill the disk.
_NEVER = 1 << 40
# If the process has run out of files, the server waits this long before it accepts the next connection, in s.
_NO_FILES_S = 0.05


class _TooSlow(waitress.utilities.Error):
    code, reason = 408, "Request Timeout"


class _NoRoom(waitress.utilities.Error):
    code, reason = 503, "Service Unavailable"


class _Unauthorized(waitress.utilities.Error):
    code, reason = 401, "Unauthorized"


class _Parser(HTTPRequestParser):
    """Reads one request and knows when it began. The body of a client that is not let in is not read."""

    def __init__(self, adj: Any, may_ask: Callable[[str, str, str | None], bool]) -> None:
        super().__init__(adj)
        self._may_ask = may_ask
        self.began = time.monotonic()

    def parse_header(self, header_plus: bytes) -> None:
        """Reads the headers. With two lengths, the connection ends after the answer, as RFC 9112 (6.1) asks for."""
        super().parse_header(header_plus)
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            self.headers["CONNECTION"] = "close"
        if not self._may_ask(self.command, self.path, self.headers.get("AUTHORIZATION")):
            self.error, self.completed, self.expect_continue = _Unauthorized(NO_TOKEN), True, False


class _JsonErrorTask(waitress.task.ErrorTask):
    """Answers a request that the HTTP library refuses, such as one that is too long, in JSON like all other errors."""

    def execute(self) -> None:
        error = self.request.error
        body = json.dumps({"error": f"{error.reason}: {error.body}"}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        if error.code == _Unauthorized.code:
            self.response_headers.append(("WWW-Authenticate", "Bearer"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Task(waitress.task.WSGITask):
    """Answers a request."""

    def get_environment(self) -> dict[str, Any]:
        """Returns the environment; `UNSENT` in it returns how many bytes of the answer wait to be sent."""
        environ: dict[str, Any] = super().get_environment()
        environ[UNSENT] = lambda: self.channel.total_outbufs_len
        return environ


class _Channel(waitress.channel.HTTPChannel):
    """One connection."""

    error_task_class = _JsonErrorTask
    task_class = _Task
    body_bytes = 0

    def parser_class(self, adj: Any) -> _Parser:
        """Returns what reads the next request."""
        return _Parser(adj, self.server.may_ask)

    def received(self, data: bytes) -> bool:
        """Takes bytes from the client and counts those of bodies against the server's bound."""
        taken = bool(super().received(data))
        self._count()
        if self.server.body_bytes > self.server.max_body_bytes:
            self.server.drop_a_body()
        return taken

    def service(self) -> None:
        """Answers one request, in a thread of the pool."""
        super().service()
        self._count()

    def handle_close(self) -> None:
        """Closes the connection."""
        super().handle_close()
        self.request = None  # without the lock: waitress may hold it here
        self._count()

    def is_waiting(self) -> bool:
        """Tells whether nothing is being done for this client: it has sent no request, or only a part of one."""
        return not self.requests and not self.total_outbufs_len

    def since(self) -> float:
        """Returns when the client began to keep the server waiting, on the monotonic clock in s."""
        request = self.request
        return float(time.monotonic() - (time.time() - self.last_activity) if request is None else request.began)

    def is_too_slow(self) -> bool:
        """Tells whether the request that is being received comes too slowly."""
        request = self.request
        late = time.monotonic() - request.began - _PATIENCE_S if request is not None else 0.0
        return request is not None and late > 0 and request.body_bytes_received < late * _SLOWEST_BYTES_PER_S

    def refuse(self, error: Any) -> None:
        """Answers the request that is being received with an error; the connection ends after that."""
        with self.requests_lock:
            request, self.request = self.request, None
            if request is None:
                return
            request.close()
            request.body_rcv, request.error, request.completed = None, error, True
            self.requests.append(request)
            is_first = len(self.requests) == 1
        if is_first:
            self.server.add_task(self)
        self._count()

    def _count(self) -> None:
        request = self.request
        held = sum(one.body_bytes_received for one in [*self.requests, *([request] if request is not None else [])])
        with self.server.counting:
            self.server.body_bytes += held - self.body_bytes
            self.body_bytes = held


class HttpServer(waitress.server.TcpWSGIServer):
    """The HTTP server. It binds its port when it is made, and answers once `run` is called.

    Args:
        application: the WSGI application.
        may_ask: tells whether a request may be answered, by its verb, path and header `authorization`.
        host: address to listen on.
        port: 0 picks a free one.
        threads: requests handled at the same time.
        body_bytes: largest body of a request; four times as many bytes of bodies are held.
        unread_bytes: bytes of answers that clients have not read yet; a single answer may be larger.

    Raises:
        OSError: the port cannot be bound.
    """

    channel_class = _Channel

    def __init__(
        self,
        application: Callable[..., Any],
        *,
        may_ask: Callable[[str, str, str | None], bool],
        host: str,
        port: int,
        threads: int,
        body_bytes: int,
        unread_bytes: int,
    ) -> None:
        self.may_ask = may_ask
        self.counting = threading.Lock()
        self.body_bytes, self.max_body_bytes = 0, 4 * body_bytes
        self._unread_bytes, self._needs_memory = unread_bytes, False
        self._max_connections = max_connections()
        logging.getLogger("waitress").setLevel(logging.ERROR)
        adjustments = Adjustments(
            host=host,
            port=port,
            threads=threads,
            ident=None,
            max_request_header_size=_HEADER_BYTES,
            max_request_body_size=body_bytes,
            inbuf_overflow=_NEVER,
            outbuf_overflow=_NEVER,
            outbuf_high_watermark=_NEVER,  # else a thread would wait for a client that does not read
            cleanup_interval=_LOOK_S,
            connection_limit=2 * _MAX_CONNECTIONS,  # never reached; see `handle_accept`
            channel_request_lookahead=1,  # needed to notice that a client has disconnected
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=True,
        )
        super().__init__(application, map={}, adj=adjustments, sockinfo=adjustments.listen[0])

    def handle_accept(self) -> None:
        """Accepts a connection; if there are too many, the one that has waited longest for its client is closed."""
        try:
            accepted = self.accept()
            if accepted is None:
                return
            connection, address = accepted
            self.set_socket_options(connection)
        except OSError as error:  # no file is free, or the client has gone
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._close_longest_waiting()
                time.sleep(_NO_FILES_S)
            return
        if len(self.active_channels) >= self._max_connections and not self._close_longest_waiting():
            connection.close()
            return
        self.channel_class(self, connection, address, self.adj, map=self._map)

    def has_room(self, size: int) -> bool:
        """Tells whether an answer of `size` bytes may be kept until its client has read it."""
        held = sum(channel.total_outbufs_len for channel in list(self.active_channels.values()))
        fits = not held or held + size <= self._unread_bytes
        if not fits:
            self._needs_memory = True
        return fits

    def drop_a_body(self) -> None:
        """Refuses the request that has been arriving for longest, because all bodies together are too large."""
        arriving = [channel for channel in list(self.active_channels.values()) if channel.request is not None]
        if arriving:
            oldest = min(arriving, key=lambda channel: channel.since())
            oldest.refuse(_NoRoom("Too many large requests are being read"))

    def maintenance(self, now: float) -> None:
        """Closes the connections of clients that do nothing; the loop calls this every few seconds."""
        patience_s = _SHORT_PATIENCE_S if self._needs_memory else _PATIENCE_S
        self._needs_memory = False
        for channel in list(self.active_channels.values()):
            idle_s = now - channel.last_activity
            if channel.is_too_slow():
                channel.refuse(_TooSlow("The request came too slowly"))
            elif (channel.total_outbufs_len and idle_s > patience_s) or (channel.is_waiting() and idle_s > _PATIENCE_S):
                channel.handle_close()

    def _close_longest_waiting(self) -> bool:
        waiting = [channel for channel in list(self.active_channels.values()) if channel.is_waiting()]
        if waiting:
            min(waiting, key=lambda channel: channel.since()).handle_close()
        return bool(waiting)


def max_connections() -> int:
    """Returns how many connections are accepted, by the number of files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        _MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(_MAX_CONNECTIONS, files // _SHARE_OF_FILES))
    )


def allow_more_files() -> None:
    """Lets this process open as many files as the system allows it; connections and models need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # the system does not allow it after all
            return
