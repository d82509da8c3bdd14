"""Runs the studio: its web server (uvicorn) on loopback, and the browser."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serving.client.vae import Vae
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.studio.recipes import Recipes

if TYPE_CHECKING:
    from tfpipe.studio.studio import Studio

_HOST = "127.0.0.1"


def run_studio(
    vae: Vae,
    *,
    recipes: Recipes,
    port: int,
    keep: Path,
    windows: Path | None = None,
    on_ready: Callable[[str], object] = webbrowser.open,
) -> None:
    """Serves the page until SIGINT or SIGTERM.

    Args:
        vae: the model.
        recipes: writes the commands that the page shows.
        port: port on 127.0.0.1; 0 takes a free one.
        keep: folder for the sounds that are kept.
        windows: `report-windows.parquet` of the run, for the map; None uses draws.
        on_ready: is called with the page's address when it can be opened.

    Raises:
        UsageError: the port is in use, or an argument is wrong.
        TfpipeError: the model cannot be used.
    """
    import uvicorn

    from tfpipe.studio.app import make_app
    from tfpipe.studio.studio import Studio

    with _listening(port) as listener, tempfile.TemporaryDirectory(prefix="tfpipe-studio-") as folder:
        port = listener.getsockname()[1]
        studio = Studio(vae, folder=Path(folder), keep=keep, recipes=recipes, windows=windows)
        app = make_app(studio, hosts=frozenset({f"{_HOST}:{port}", f"localhost:{port}"}))
        threading.Thread(target=_prepare, args=(studio,), name="studio-map", daemon=True).start()
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=3)
        server = uvicorn.Server(config)
        on_ready(f"http://{_HOST}:{port}/")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # uvicorn raises it again once it has ended in order
        finally:
            app.state.jobs.stop()


def _prepare(studio: Studio) -> None:
    """Finds the map before somebody asks for it."""
    try:
        studio.space.find()
    except TfpipeError as error:
        print(f"the map and the sliders cannot be shown: {error}", file=sys.stderr)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """Opens the port for the block.

    Raises:
        UsageError: it is in use, or not allowed.
    """
    try:
        listener = socket.create_server((_HOST, port))
    except (OSError, OverflowError) as error:
        raise UsageError(f"--port {port}: {_HOST}:{port} cannot be used ({error}); choose another port") from error
    with listener:
        yield listener
