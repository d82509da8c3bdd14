"""The compiled modules agree with their stubs, and the Rust crates pass their own tests."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest

MODULES = ("serving.server._front", "tfpipe.bench._load")


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in MODULES), reason="the compiled modules are not built"
)
def test_names_and_signatures_of_the_compiled_modules_are_those_of_their_stubs(repo, tmp_path):
    # Python 3.11 does not show a type's buffer protocol as a method.
    allowed = tmp_path / "allowed"
    allowed.write_text("serving.server._front.Memory.__buffer__\n")
    options = ["--ignore-disjoint-bases", "--allowlist", str(allowed), "--ignore-unused-allowlist"]
    command = [sys.executable, "-m", "mypy.stubtest", *options, *MODULES]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
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
