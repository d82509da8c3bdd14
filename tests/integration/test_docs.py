"""The pages tell the truth about names: links, modules, functions, files and the Python in the README."""

import ast
import functools
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PAGES = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")),
    *sorted((REPO / "docs").rglob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"\b(?:tfpipe|serving|beam_jobs)(?:\.[A-Za-z_]\w*)+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path below one of the project's own folders.
_FOLDERS = r"tfpipe|serving|beam_jobs|examples(?=/\w\w)|tests|scripts|docs|docker|constraints|\.ci"
_PATH = re.compile(rf"(?<![\w./~-])(?:{_FOLDERS})/[\w./*-]*\w")


def _prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _members(node: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    """Returns what the body of a module or class defines, by its name."""
    found: dict[str, ast.AST] = {}
    todo: list[ast.stmt] = list(node.body)
    for item in todo:
        if isinstance(item, ast.If | ast.Try):
            todo += item.body
        elif isinstance(item, ast.FunctionDef | ast.ClassDef):
            found[item.name] = item
        elif isinstance(item, ast.Assign):
            names = {name.id for target in item.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            found.update(dict.fromkeys(names, item))
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = item
        elif isinstance(item, ast.Import | ast.ImportFrom):
            found.update({(alias.asname or alias.name): item for alias in item.names})
    return found


def _exists(name: str) -> bool:
    """Tells whether a dotted name is a module, or something that a module or a class in it defines."""
    here, parts = REPO, name.split(".")
    while parts and (here / parts[0]).is_dir():
        here /= parts.pop(0)
    if parts and (here / f"{parts[0]}.py").is_file():
        node: ast.AST = _tree(here / f"{parts.pop(0)}.py")
    else:
        node = _tree(here / "__init__.py")
    for part in parts:
        if not isinstance(node, ast.Module | ast.ClassDef) or part not in (members := _members(node)):
            return False
        node = members[part]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = [target for target in _LINK.findall(_prose(page)) if "://" not in target and not target.startswith("#")]
    assert not [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page):
    assert not [name for name in _NAME.findall(page.read_text()) if not _exists(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page):
    names = set(_PATH.findall(page.read_text()))
    assert not [name for name in names if not list(REPO.glob(name)) and not _is_placeholder(name)]


def _is_placeholder(name: str) -> bool:
    """Tells whether a path stands for any file of a folder that exists, such as `tfpipe/commands/NAME.py`."""
    return Path(name).stem == "NAME" and (REPO / name).parent.is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_pages_compiles(page):
    for language, block in _FENCE.findall(page.read_text()):
        if language == "python":
            compile(block, str(page), "exec")


def test_the_readme_uses_public_names():
    body = _tree(REPO / "tfpipe" / "__init__.py").body
    public = set(ast.literal_eval(next(n.value for n in body if isinstance(n, ast.Assign) and _is_all(n))))
    used = set(re.findall(r"\btp\.([A-Za-z_]\w*)", (REPO / "README.md").read_text()))
    assert used <= public


def _is_all(node: ast.Assign) -> bool:
    return ast.unparse(node.targets[0]) == "__all__"


def test_the_readme_is_short():
    assert len((REPO / "README.md").read_text().splitlines()) <= 100


def test_every_page_is_listed():
    listed = set(_LINK.findall((REPO / "docs" / "README.md").read_text()))
    assert {page.name for page in (REPO / "docs").glob("*.md")} - {"README.md"} <= listed


def test_every_folder_has_its_line():
    text = (REPO / "docs" / "ARCHITECTURE.md").read_text()
    packages = [REPO / "tfpipe", REPO / "serving"]
    folders = {path.parent.relative_to(REPO) for package in packages for path in package.glob("*/__init__.py")}
    assert not [str(folder) for folder in folders if f"`{folder}/`" not in text]
