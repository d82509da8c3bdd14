"""The pages tell the truth about names: links, modules, functions, files, commands and the Python in the README."""

import ast
import functools
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from tfpipe.cli.arguments import normalised
from tfpipe.cli.main import _parser, _split

REPO = Path(__file__).parents[2]
PAGES = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")),
    *sorted((REPO / "docs").glob("*.md")),
    REPO / "docs" / "sounds" / "README.md",
]
# Pages that are read with these: the files of the serving image, and those that the site shows from elsewhere.
MORE = [
    REPO / "CHANGELOG.md",
    REPO / "serving" / "deploy" / "README.md",
    *sorted((REPO / "docs" / "site").glob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Matches one tfpipe command in a line of a shell. The match ends before a `$`, because a variable holds the options.
_COMMAND = re.compile(r"(?:^|[|;&] *|-- |launch_slurm )tfpipe ([^|;&>$#\n]*)", re.MULTILINE)
_INNER = re.compile(r"\$\((.*?)\)")
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


def _short(page: Path) -> str:
    return str(page.relative_to(REPO))


def _links(page: Path) -> list[tuple[Path, str]]:
    """Returns the file and the anchor of each link of a page that does not leave the repository."""
    targets = [target.partition("#") for target in _LINK.findall(_prose(page)) if "://" not in target]
    return [(page.parent / name if name else page, anchor) for name, _, anchor in targets]


def _anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub and the site make of the headings of a page."""
    texts = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in _HEADING.findall(_prose(page))]
    seen: Counter[str] = Counter()
    found = set()
    for text in texts:
        name = text.replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=_short)
def test_links_lead_to_files(page):
    assert not [str(file) for file, _ in _links(page) if not file.exists()]


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=_short)
def test_anchors_are_headings(page):
    links = [(file, anchor) for file, anchor in _links(page) if anchor]
    assert not [f"{file}#{anchor}" for file, anchor in links if anchor not in _anchors(file)]


def test_an_anchor_is_made_as_on_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Skipped files\n\n## `--cache DIR`\n\n## What stays, what differs\n\n## Skipped files\n")
    assert _anchors(page) == {"skipped-files", "--cache-dir", "what-stays-what-differs", "skipped-files-1"}


def _commands(page: Path) -> list[str]:
    """Returns the commands of tfpipe in the blocks of a page, without the program's name."""
    blocks = [block.replace("\\\n", " ") for language, block in _FENCE.findall(page.read_text()) if language == "sh"]
    lines = [*(_INNER.sub("VALUE", block) for block in blocks), *(inner for b in blocks for inner in _INNER.findall(b))]
    return [command.strip() for line in lines for command in _COMMAND.findall(line)]


@pytest.mark.parametrize("page", [page for page in [*PAGES, *MORE] if _commands(page)], ids=_short)
def test_commands_are_understood(page):
    refused = []
    for command in _commands(page):
        arguments, _ = _split(shlex.split(command))
        parser = _parser(arguments)
        try:
            args = parser.parse_args(normalised(arguments, parser))
        except SystemExit:
            refused.append(command)
        else:
            refused += getattr(args, "unknown_flags", None) or []
    assert not refused


def test_the_pages_have_many_commands():
    assert sum(len(_commands(page)) for page in PAGES) >= 30


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_on_the_pages_exist(page):
    blocks = [ast.parse(block) for language, block in _FENCE.findall(page.read_text()) if language == "python"]
    imports = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imports for alias in node.names]
    assert not [name for name in names if _NAME.fullmatch(name) and not _exists(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_use_public_names(page):
    body = _tree(REPO / "tfpipe" / "__init__.py").body
    public = set(ast.literal_eval(next(n.value for n in body if isinstance(n, ast.Assign) and _is_all(n))))
    used = set(re.findall(r"\btp\.([A-Za-z_]\w*)", page.read_text()))
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
