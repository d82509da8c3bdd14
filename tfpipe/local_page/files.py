"""The files of a page: its own at `/static`, and those that all pages share at `/shared`."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles


def static_files(own: Path) -> list[Mount]:
    """Returns the routes to the files of a page.

    Args:
        own: folder of the page's own files.
    """
    shared = Path(__file__).with_name("static")
    return [Mount("/static", StaticFiles(directory=own)), Mount("/shared", StaticFiles(directory=shared))]
