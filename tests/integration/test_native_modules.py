"""The compiled modules agree with their stubs, and the Rust crates pass their own tests."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

MODULES = ("serving.server._front", "tfpipe.bench._load", "tfpipe.data._records")


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in MODULES), reason="the compiled modules are not built"
)
def test_names_and_signatures_of_the_compiled_modules_are_those_of_their_stubs(repo, tmp_path):
    # The stubs are copied, so that mypy reads nothing else of the packages.
    for name in MODULES:
        *packages, _ = name.split(".")
        for depth in range(1, len(packages) + 1):
            folder = tmp_path.joinpath(*packages[:depth])
            folder.mkdir(exist_ok=True)
            (folder / "__init__.pyi").touch()
        stub = Path(*name.split(".")).with_suffix(".pyi")
        shutil.copy(repo / stub, tmp_path / stub)
    # Python 3.11 does not show a type's buffer protocol as a method.
    (tmp_path / "allowed").write_text("serving.server._front.Memory.__buffer__\n")
    options = ["--ignore-disjoint-bases", "--allowlist", "allowed", "--ignore-unused-allowlist"]
    command = [sys.executable, "-m", "mypy.stubtest", *options, *MODULES]
    environment = {**os.environ, "PYTHONPATH": str(repo), "MYPYPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cargo") is None, reason="Rust is not installed")
@pytest.mark.skipif(not sysconfig.get_config_var("Py_ENABLE_SHARED"), reason="this Python has no shared library")
def test_the_unit_tests_of_the_rust_crates_pass(repo):
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "PYO3_PYTHON": sys.executable, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
    command = ["cargo", "test", "--locked", "--quiet"]
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
