"""The rooms of docs/ARCHITECTURE.md: which folder may import which, and what may load heavy libraries."""

import ast
import importlib
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = ("tfpipe", "beam_jobs", "serving")
FILES = sorted(path for package in PACKAGES for path in (REPO / package).rglob("*.py"))
COMMANDS = sorted(path for path in (REPO / "tfpipe" / "commands").rglob("*.py") if path.name != "__init__.py")

_BASE = {"tfpipe.errors", "tfpipe.settings", "tfpipe.spec", "tfpipe.files", "tfpipe.process"}
_SOUND = {*_BASE, "tfpipe.features", "tfpipe.audio"}
_DATA = {*_SOUND, "tfpipe.lanes", "tfpipe.data"}
_TRAINING = {*_DATA, "tfpipe.model", "tfpipe.training"}
# Each folder, with the folders whose modules its own may import. `tfpipe` is its public names.
ROOMS = {
    "tfpipe.errors": set(),
    "tfpipe.lanes": set(),
    "tfpipe.settings": {"tfpipe.errors"},
    "tfpipe.spec": {"tfpipe.errors", "tfpipe.settings"},
    "tfpipe.process": set(),
    "tfpipe.files": {"tfpipe.errors", "tfpipe.process", "tfpipe.settings"},
    "tfpipe.features": {"tfpipe.errors", "tfpipe.settings", "tfpipe.spec"},
    "tfpipe.audio": _SOUND,
    "tfpipe.model": {"tfpipe.errors", "tfpipe.settings", "tfpipe.spec", "tfpipe.features"},
    "tfpipe.data": {*_SOUND, "tfpipe.lanes"},
    "tfpipe.training": {*_DATA, "tfpipe.model"},
    "tfpipe.evaluation": _TRAINING,
    "tfpipe.run_report": {*_TRAINING, "serving.client", "tfpipe.evaluation"},
    "tfpipe.local_page": {"tfpipe.errors"},
    "tfpipe.browse": {*_DATA, "tfpipe.local_page", "tfpipe.run_report"},
    "tfpipe.studio": {
        *_TRAINING,
        *("serving.client", "serving.protocol"),
        *("tfpipe.evaluation", "tfpipe.local_page", "tfpipe.run_report"),
    },
    "tfpipe.testing": _SOUND,
    "tfpipe.doctor": {*_BASE, "tfpipe", "tfpipe.features", "tfpipe.lanes", "tfpipe.model"},
    "beam_jobs": {*_DATA, "tfpipe"} - {"tfpipe.lanes"},
    "serving.protocol": {"tfpipe.errors", "tfpipe.settings"},
    "serving.client": {
        "serving.protocol",
        "tfpipe.audio",
        "tfpipe.errors",
        "tfpipe.files",
        "tfpipe.settings",
        "tfpipe.spec",
    },
    "serving.server": {
        "serving.client",
        "serving.protocol",
        "tfpipe.audio",
        "tfpipe.data",
        "tfpipe.errors",
        "tfpipe.process",
        "tfpipe.settings",
    },
    "serving.export": {*_TRAINING, "serving.protocol"},
    "serving.checks": {*_SOUND, "serving.client", "serving.protocol", "serving.server"},
}
# These may import every folder: they put the others together.
COMPOSERS = {"tfpipe", "tfpipe.bench", "tfpipe.cli", "tfpipe.commands", "tfpipe.workflow"}


def _room(module: str) -> str:
    """Returns the folder of a dotted module name; a single module of `tfpipe` stands for itself."""
    first, *rest = module.split(".")
    if first == "beam_jobs" or not rest or rest[0].startswith("__"):
        return first
    known = f"{first}.{rest[0]}"
    return known if known in ROOMS or known in COMPOSERS else first


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
    todo: list[ast.AST] = [*ast.parse(path.read_text()).body]
    found = []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found.append(node)
        todo += ast.iter_child_nodes(node)
    return _imports(found)


def _arrows() -> dict[str, dict[str, set[str]]]:
    """Returns, for each folder, the folders that it imports and the files that do so."""
    arrows: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in FILES:
        name = str(path.relative_to(REPO))
        here = _room(".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"))
        for module in _everywhere(path):
            if module.split(".")[0] in PACKAGES and (there := _room(module)) != here:
                arrows[here][there].add(f"{name} imports {module}")
    return arrows


def test_every_folder_has_its_arrows():
    folders = {".".join(path.parent.relative_to(REPO).parts[:2]) for path in FILES}
    assert folders - {"tfpipe", "serving"} <= set(ROOMS) | COMPOSERS


def test_each_folder_imports_what_it_may():
    arrows = _arrows()
    wrong = [
        sentence
        for room, allowed in ROOMS.items()
        for there, sentences in arrows[room].items()
        if there not in allowed
        for sentence in sentences
    ]
    assert not wrong


def test_the_arrows_have_no_circle():
    arrows = {room: set(there) for room, there in _arrows().items() if room not in COMPOSERS}
    while arrows:
        ends = {room for room, there in arrows.items() if not there & set(arrows)}
        assert ends, f"a circle among {sorted(arrows)}"
        arrows = {room: there for room, there in arrows.items() if room not in ends}


def test_models_of_the_server_know_nothing_of_its_ports():
    """In `serving/server`, gRPC and REST use the service, which uses the models; no import goes back up."""
    above = {"models": ("rest", "grpc", "service", "server"), "rest": ("grpc", "server"), "grpc": ("rest", "server")}
    wrong = [
        f"{path.relative_to(REPO)} imports {module}"
        for folder, names in above.items()
        for path in (REPO / "serving" / "server" / folder).glob("*.py")
        for module in _everywhere(path)
        if module.startswith(tuple(f"serving.server.{name}" for name in names))
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_nothing_imports_what_a_wheel_lacks(path):
    assert not {name for name in _everywhere(path) if name.split(".")[0] in ("tests", "scripts", "setup")}


@pytest.mark.parametrize("path", [*COMMANDS, REPO / "tfpipe" / "cli" / "main.py"], ids=lambda path: path.stem)
def test_commands_import_nothing_heavy_at_the_top(path):
    allowed = re.compile(r"tfpipe\.(cli|errors|settings|spec|commands|__version__)(\.|$)")
    heavy = {
        name for name in _at_top(path) if name.split(".")[0] not in sys.stdlib_module_names and not allowed.match(name)
    }
    assert not heavy


def test_every_folder_says_what_lives_there():
    for path in FILES:
        if path.name == "__init__.py":
            module = ".".join(path.parent.relative_to(REPO).parts)
            assert (importlib.import_module(module).__doc__ or "").strip(), module
