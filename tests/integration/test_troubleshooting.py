"""The page on errors quotes messages that the code really has."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
_PAGE = (REPO / "docs" / "TROUBLESHOOTING.md").read_text()
# A heading of the third level is a message between backticks.
_ENTRY = re.compile(r"^### `([^`\n]+)`\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
ENTRIES = dict(_ENTRY.findall(_PAGE))


class _Messages(ast.NodeVisitor):
    """Collects the texts of a module; what an f-string fills in becomes the ellipsis that the page writes."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.append(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self.found.append("".join(_part(value) for value in node.values))
        self.generic_visit(node)


def _part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "…"


@cache
def _texts() -> str:
    """Returns all texts of the packages that are no docstrings, and those of the scripts."""
    messages = _Messages()
    for package in ("tfpipe", "beam_jobs", "serving"):
        for path in (REPO / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                    node.body = node.body[1:]
            messages.visit(tree)
    return "\n".join([*messages.found, (REPO / "scripts" / "setup").read_text()])


def test_the_page_has_enough_entries():
    assert len(ENTRIES) >= 20
    assert len(ENTRIES) == _PAGE.count("\n### ")


@pytest.mark.parametrize("message", ENTRIES)
def test_the_message_is_in_the_code(message):
    assert re.search(r"[a-z]{3}", message)
    assert message in _texts()


@pytest.mark.parametrize("message", ENTRIES)
def test_the_message_has_its_cause_and_fix(message):
    assert re.fullmatch(r"\n\*\*Cause\.\*\* \S.*\n\n\*\*Fix\.\*\* \S.*\n+", ENTRIES[message])


def test_a_message_that_nobody_prints_is_found():
    assert "no complete dataset there" not in _texts()
    assert "Searches the text of all modules" not in _texts()
