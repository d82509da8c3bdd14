"""Finds the blocks of code on the pages, and runs them as a reader would who types them in."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import ROOT
from studio_tools import running

from tfpipe.cli.main import main
from tfpipe.process import children

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "serving/deploy/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "site").glob("*.md")),
]
# What a reader runs. Blocks of the other languages are answers, lists and parts of files.
LANGUAGES = ("sh", "bash", "python", "js", "go")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The characters with which a command needs a shell.
_OF_A_SHELL = re.compile(r"[|&;$<>`~]")
# The ports that the pages name: gRPC and REST of a server.
_PORTS = re.compile(r"\b(localhost|127\.0\.0\.1):(8500|8501)\b")


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        page: the page's path in the repository.
        language: the word after the fence.
        text: the code.
    """

    page: str
    language: str
    text: str

    def statements(self) -> list[str]:
        """Returns the commands of a shell block; one that goes on in the next line is one command."""
        text = re.sub(r"\\\n\s*|(?<=\|)\n\s*", " ", self.text)
        return [line for line in text.splitlines() if shlex.split(line, comments=True)]


@dataclass(frozen=True)
class Recipe:
    """How a block is run.

    Attributes:
        more: options that are added to a command. The key is the words with which the command begins.
        replace: texts of the block, which must be in it, and what replaces them.
        without: files and folders that are removed from the work folder before the block runs.
        leave_out: commands that are not run, and the reason. The key is the words with which the command begins.
        makes: files that the block must make.
        shapes: shapes of the arrays that a Python block must end with, by their names.
        trained: whether `models/vae` is the export of `run`; else it is a model with windows of one second.
        begin: Python that runs first, because the page expects that the reader has run it already.
    """

    more: Mapping[str, str] = field(default_factory=dict)
    replace: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    leave_out: Mapping[str, str] = field(default_factory=dict)
    makes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    trained: bool = False
    begin: str = ""


def blocks() -> list[Block]:
    """Returns all blocks that a reader may run."""
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in PAGES
        for language, text in _FENCE.findall(page.read_text())
        if language in LANGUAGES
    ]


def find(page: str, words: str) -> list[Block]:
    """Returns the blocks of a page that contain these words."""
    return [block for block in blocks() if block.page == page and words in block.text]


def run_python(block: Block, recipe: Recipe, ports: Callable[[], tuple[int, int]]) -> None:
    """Runs a Python block in this process. `ports` returns the ports that replace those of the server in it."""
    text = _with_ports(_replaced(block.text, recipe), ports)
    names: dict[str, Any] = {}
    exec(recipe.begin, names)
    exec(compile(text, block.page, "exec"), names)
    for name, shape in recipe.shapes.items():
        assert names[name].shape == shape


def run_shell(block: Block, recipe: Recipe, ports: Callable[[], tuple[int, int]]) -> None:
    """Runs a shell block, one command after another, in the working directory.

    Commands of tfpipe run in this process, which has imported TensorFlow already. A server or a studio that a command
    starts has free ports, and ends with the block; `ports` returns those of the server for a block that starts none.
    """
    unused = {*recipe.more, *recipe.leave_out}
    text = _replaced(block.text, recipe)
    with contextlib.ExitStack() as stack:
        for statement in Block(block.page, block.language, text).statements():
            left_out = [words for words in recipe.leave_out if statement.startswith(words)]
            added = [words for words in recipe.more if statement.startswith(words)]
            unused -= {*left_out, *added}
            if left_out:
                continue
            command = " ".join([_without_comment(statement), *(recipe.more[words] for words in added)])
            if command.startswith("tfpipe serve "):
                found = stack.enter_context(_server(shlex.split(command)[2:]))
                ports = _always(found)
            elif command.startswith("tfpipe studio "):
                _open_studio(shlex.split(_with_ports(command, ports))[2:])
            else:
                _run(_with_ports(command, ports))
    assert not unused, "no command of the block begins with these words"


def _always(found: tuple[int, int]) -> Callable[[], tuple[int, int]]:
    return lambda: found


def _replaced(text: str, recipe: Recipe) -> str:
    for old, new in recipe.replace.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _without_comment(statement: str) -> str:
    return re.sub(r"\s+# .*$", "", statement)


def _with_ports(text: str, ports: Callable[[], tuple[int, int]]) -> str:
    """Replaces the ports of the pages; a server is started only for a text that names one."""
    return _PORTS.sub(lambda match: f"{match[1]}:{ports()[match[2] == '8501']}", text)


def _run(command: str) -> None:
    if command.startswith("tfpipe ") and not _OF_A_SHELL.search(command):
        assert main(shlex.split(command)[1:]) == 0, command
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], env=children.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@contextlib.contextmanager
def _server(arguments: list[str]) -> Iterator[tuple[int, int]]:
    """Runs `tfpipe serve` with the arguments of a page on free ports; yields those of gRPC and REST."""
    command = children.python(["-m", "tfpipe", "serve", *arguments, "--port=0", "--rest_api_port=0", "--json"])
    with subprocess.Popen(command, env=children.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the server did not start"
            ready = json.loads(line)
            yield ready["port"], ready["rest_api_port"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0


def _open_studio(arguments: list[str]) -> None:
    """Runs `tfpipe studio` with the arguments of a page until its page is there."""
    places = [str(Path(text).expanduser()) for text in arguments]
    with running(*places) as page:
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        assert b"<html" in answer.read()
        connection.close()
