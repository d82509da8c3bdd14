"""The parts of the documentation site that are not pages: README and others on it, settings, and the command line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from tfpipe.cli.main import whole_parser

DOCS = Path(__file__).resolve().parent
# A page in `site/` stands for a Markdown file outside `docs/`, which its only link names.
_STANDS_FOR = DOCS / "site"
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the functions below with Sphinx."""
    app.add_lexer("csv", TextLexer)
    app.connect("env-get-outdated", _always_outdated)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _list_settings)
    app.connect("missing-reference", _find_by_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of `tfpipe` with the options of every command, as sphinx-argparse shows it."""
    whole = whole_parser()
    (commands,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        # Examples stay in lines of their own.
        command.epilog = re.sub(r"(?m)^example(s?):\n", r"Example\1::\n\n", command.epilog or "") or None
    return whole


def stands_for(page: Path) -> Path:
    """Returns the file that is shown in the place of a page of `site/`."""
    (target,) = _LINK.findall(page.read_text(encoding="utf-8"))
    return Path(page.parent, target).resolve()


def _always_outdated(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> list[str]:
    """Returns the page that is built each time, because Sphinx cannot know which modules the parser comes from."""
    return ["commands"]


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replaces a page of `site/` by the file that it stands for, and leads links to such files to their pages."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    shown = page
    if page.parent == _STANDS_FOR:
        shown = stands_for(page)
        app.env.note_dependency(str(shown))
        source[0] = shown.read_text(encoding="utf-8")
    pages = {stands_for(other): other for other in _STANDS_FOR.glob("*.md")} | {DOCS / "README.md": DOCS / "index.rst"}

    def moved(match: re.Match[str]) -> str:
        target = (shown.parent / match[0]).resolve()
        return os.path.relpath(pages.get(target, target), page.parent)

    source[0] = _LINK.sub(moved, source[0])


def _list_settings(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Adds the settings of a configuration class to its docstring, with their help and default."""
    if what != "class" or not dataclasses.is_dataclass(thing):
        return
    settings = [
        field for field in dataclasses.fields(thing) if field.metadata.get("help") and not field.metadata["hidden"]
    ]
    for field in settings:
        default = "" if field.default is dataclasses.MISSING else f" Default: `{field.default!r}`."
        lines.append(f":param {field.name}: {field.metadata['help']}.{default}")
    if settings:
        lines.append("")


def _find_by_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.reference | None:
    """Leads a class that a docstring or a type hint names without its module to its place on the page of the API."""
    if node.get("refdomain") != "py":
        return None
    ending = f".{node['reftarget'].rpartition('.')[2]}"
    found = [place for name, place in env.domains.python_domain.objects.items() if name.endswith(ending)]
    if len(found) != 1:
        return None
    return make_refnode(app.builder, node["refdoc"], found[0].docname, found[0].node_id, shown)
