"""The import arrows of docs/ARCHITECTURE.md."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = ("tfpipe", "beam_jobs", "serving")
FILES = sorted(path for package in PACKAGES for path in (REPO / package).rglob("*.py"))
COMPOSERS = {REPO / "tfpipe" / "cli.py", *(REPO / "tfpipe" / "commands").glob("*.py")}
COMMANDS = sorted(path for path in (REPO / "tfpipe" / "commands").glob("*.py") if path.name != "__init__.py")


def _imports(nodes) -> set[str]:
    """Returns the dotted names that import statements among `nodes` may load."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _everywhere(path: Path) -> set[str]:
    return _imports(ast.walk(ast.parse(path.read_text())))


def _at_top(path: Path) -> set[str]:
    """Imports that run when the module is imported: all but those inside functions and TYPE_CHECKING."""
    todo, found = list(ast.parse(path.read_text()).body), []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found.append(node)
        todo += ast.iter_child_nodes(node)
    return _imports(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_arrows(path):
    package = path.relative_to(REPO).parts[0]
    others = {other for other in ("beam_jobs", "serving") if other != package}
    allowed = others if path in COMPOSERS else set()
    imported = {name.split(".")[0] for name in _everywhere(path)}
    assert not imported & (others - allowed)
    assert not {name for name in _everywhere(path) if name.split(".")[0] in ("tests", "scripts", "setup")}


@pytest.mark.parametrize("path", [*COMMANDS, REPO / "tfpipe" / "cli.py"], ids=lambda path: path.stem)
def test_commands_import_nothing_heavy_at_the_top(path):
    assert (REPO / "tfpipe" / "cli.py").exists()
    allowed = re.compile(r"tfpipe\.(arguments|errors|spec|commands|__version__)(\.|$)")
    heavy = {
        name for name in _at_top(path) if name.split(".")[0] not in sys.stdlib_module_names and not allowed.match(name)
    }
    assert not heavy


def _modules(heading: str) -> dict[str, str]:
    """Modules in a table of the page, and what its last column says of each."""
    page = (REPO / "docs" / "ARCHITECTURE.md").read_text()
    section = page.partition(f"## {heading}")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| .+ \| (.+?) \|$", section, re.MULTILINE)
    return {name: needs for cell, needs in rows for name in re.findall(r"`(\w+)/?`", cell)}


@pytest.mark.parametrize(("package", "heading"), [("tfpipe", "The core"), ("beam_jobs", "The Beam job")])
def test_the_page_names_every_module(package, heading):
    modules = {path.stem for path in (REPO / package).glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(_modules(heading)) - {"commands"}


@pytest.mark.parametrize(
    ("package", "heading", "heavy"),
    [("tfpipe", "The core", {"tensorflow", "keras"}), ("beam_jobs", "The Beam job", {"tensorflow", "apache_beam"})],
)
def test_light_modules_load_nothing_heavy(package, heading, heavy):
    names = [f"{package}.{name}" for name, needs in _modules(heading).items() if needs != "yes"]
    assert len(names) > 5
    code = (
        "import importlib, json, sys\n"
        "guilty = []\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    if {heavy!r} & set(sys.modules):\n"
        "        guilty.append(name); break\n"
        "print(json.dumps(guilty))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
