"""Runs the studio: its page, its folder for sounds, and the search for the map."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serving.client.vae import Vae
from tfpipe.errors import TfpipeError
from tfpipe.local_page.serve import listening, names_of, serve
from tfpipe.studio.recipes import Recipes

if TYPE_CHECKING:
    from tfpipe.studio.studio import Studio

# Beginning of a temporary folder's name; the number of the process follows.
_PREFIX = "tfpipe-studio-"


def run_studio(
    vae: Vae,
    *,
    recipes: Recipes,
    port: int,
    keep: Path,
    windows: Path | None = None,
    opens_browser: bool,
) -> None:
    """Serves the page until SIGINT or SIGTERM.

    Args:
        vae: the model.
        recipes: writes the commands that the page shows.
        port: port on 127.0.0.1; 0 takes a free one.
        keep: folder for the sounds that are kept.
        windows: `report-windows.parquet` of the run, for the map; None uses draws.
        opens_browser: opens the page in a browser, if there is a screen.

    Raises:
        UsageError: the port is in use, or an argument is wrong.
        TfpipeError: the model cannot be used.
    """
    from tfpipe.studio.app import make_app
    from tfpipe.studio.studio import Studio

    with listening(port) as listener, _work_folder() as folder:
        studio = Studio(vae, folder=folder, keep=keep, recipes=recipes, windows=windows)
        app = make_app(studio, hosts=names_of(listener))
        threading.Thread(target=_prepare, args=(studio,), name="studio-map", daemon=True).start()
        try:
            serve(app, listener, what="the studio", opens_browser=opens_browser)
        finally:
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
