"""The documentation site is built without a warning, has its pages, and loads nothing from a network."""

import ast
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tfpipe.cli.main import COMMANDS

REPO = Path(__file__).parents[2]
_NEEDS = ("sphinx", "furo", "myst_parser", "sphinxarg")
_MISSING = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
needs_sphinx = pytest.mark.skipif(bool(_MISSING), reason=f"needs {', '.join(_MISSING)}")


class _Loads(HTMLParser):
    """Collects what a browser loads for a page, and the anchors in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        name = "href" if tag == "link" else "data" if tag == "object" else "src"
        if tag in ("script", "link", "img", "iframe", "source", "audio", "video", "embed", "object"):
            self.loads += [given[key] for key in (name, "srcset", "poster") if key in given]


def _read(page: Path) -> _Loads:
    loads = _Loads()
    loads.feed(page.read_text())
    return loads


def _is_elsewhere(url: str) -> bool:
    return re.match(r"\s*([a-z+]+:)?//", url) is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["--nitpicky", "--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", folder / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, REPO / "docs", folder / "html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.slow
@needs_sphinx
def test_the_site_has_every_page(site):
    pages = [path.relative_to(REPO / "docs").with_suffix(".html") for path in (REPO / "docs").rglob("*.md")]
    assert not [str(page) for page in pages if page.name != "README.html" and not (site / page).is_file()]
    index = (site / "index.html").read_text()
    assert all(f'href="{page}"' in index for page in ("site/start.html", "CONCEPTS.html", "api.html", "commands.html"))
    # The page that shows the README has its text and its picture.
    start = (site / "site" / "start.html").read_text()
    assert "scripts/demo" in start
    (picture,) = re.findall(r"!\[.*?\]\(docs/images/(.*?)\)", (REPO / "README.md").read_text())
    assert [load for load in _read(site / "site" / "start.html").loads if load.endswith(picture)]


@pytest.mark.slow
@needs_sphinx
def test_the_reference_is_complete(site):
    assert not [name for name in _public_names() if f"tfpipe.{name}" not in _read(site / "api.html").ids]
    commands = re.sub(r"<[^>]+>", "", (site / "commands.html").read_text())
    assert not [name for name in COMMANDS if f"tfpipe {name} [-h]" not in commands]
    assert "--semitones" in commands


@pytest.mark.slow
@needs_sphinx
def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert not [(page.name, load) for page in pages for load in _read(page).loads if _is_elsewhere(load)]
    styles = {path.name: path.read_text() for path in site.rglob("*.css")}
    assert not [name for name, text in styles.items() if re.search(r"(url\(|@import)\s*[\"']?([a-z]+:)?//", text)]


def test_what_comes_from_elsewhere_is_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<link href="//host/a.css"><img src="a.png"><script src="https://host/a.js"></script>')
    assert [load for load in _read(page).loads if _is_elsewhere(load)] == ["//host/a.css", "https://host/a.js"]


def _public_names() -> list[str]:
    body = ast.parse((REPO / "tfpipe" / "__init__.py").read_text()).body
    (names,) = (n.value for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    return [name for name in ast.literal_eval(names) if name != "errors"]


def test_the_api_page_names_every_public_name():
    page = (REPO / "docs" / "api.rst").read_text()
    assert not [
        name for name in _public_names() if not re.search(rf"^\.\. auto\w+:: tfpipe\.{name}$", page, re.MULTILINE)
    ]
    assert ".. automodule:: tfpipe.errors\n" in page


def test_every_page_has_its_place_in_the_index():
    listed = set(re.findall(r"^   (?:.*<)?([\w/]+)>?$", (REPO / "docs" / "index.rst").read_text(), re.MULTILINE))
    pages = {str(path.relative_to(REPO / "docs").with_suffix("")) for path in (REPO / "docs").rglob("*.md")}
    assert pages - {"README"} <= listed
