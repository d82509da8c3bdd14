"""Runs the studio: its web server (uvicorn) on loopback, and the browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serving.client.vae import Vae
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.studio.recipes import Recipes

if TYPE_CHECKING:
    from tfpipe.studio.studio import Studio

_HOST = "127.0.0.1"
# Beginning of a temporary folder's name; the number of the process follows.
_PREFIX = "tfpipe-studio-"


def run_studio(
    vae: Vae,
    *,
    recipes: Recipes,
    port: int,
    keep: Path,
    windows: Path | None = None,
    on_ready: Callable[[str], object],
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

    with _listening(port) as listener, _work_folder() as folder:
        port = listener.getsockname()[1]
        studio = Studio(vae, folder=folder, keep=keep, recipes=recipes, windows=windows)
        app = make_app(studio, hosts=frozenset({f"{_HOST}:{port}", f"localhost:{port}"}))
        threading.Thread(target=_prepare, args=(studio,), name="studio-map", daemon=True).start()
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=3)
        server = uvicorn.Server(config)
        # uvicorn ends in order at a signal, and then raises the signal again. SIGTERM must not kill us before the
        # folder is removed.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        on_ready(f"http://{_HOST}:{port}/")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
            app.state.jobs.stop()


def _prepare(studio: Studio) -> None:
    """Finds the map before somebody asks for it."""
    try:
        studio.space.find()
    except TfpipeError as error:
        print(f"the map and the sliders cannot be shown: {error}", file=sys.stderr)


@contextlib.contextmanager
def _work_folder() -> Iterator[Path]:
    """Makes a temporary folder for the block; removes those of studios that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = left.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and Path("/proc/self").exists() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
        yield Path(folder)


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
