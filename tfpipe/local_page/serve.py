"""Serves a page on loopback (uvicorn) until a signal, and opens the browser."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfpipe.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST = "127.0.0.1"


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Opens a port of this machine for the block; 0 takes a free one.

    Raises:
        UsageError: the port is in use, or not allowed.
    """
    try:
        listener = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise UsageError(f"--port {port}: {HOST}:{port} cannot be used ({error}); choose another port") from error
    with listener:
        yield listener


def names_of(listener: socket.socket) -> frozenset[str]:
    """Returns what a browser may call the page's host, for `Guard`."""
    port = listener.getsockname()[1]
    return frozenset({f"{HOST}:{port}", f"localhost:{port}"})


def serve(app: ASGIApp, listener: socket.socket, *, what: str, opens_browser: bool) -> None:
    """Serves a page until SIGINT or SIGTERM.

    Args:
        app: answers the requests.
        listener: from `listening`.
        what: what the page is, for the line that tells its address.
        opens_browser: opens the page in a browser, if there is a screen.
    """
    import uvicorn

    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=3))
    # uvicorn ends in order at a signal, and then raises the signal again. SIGTERM must not kill us before the
    # caller has tidied up.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{what} is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if opens_browser and _has_display():
        # Some browsers return only when they are closed.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_display() -> bool:
    """Tells whether a browser has a screen; without one, Python might start a browser in this terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
