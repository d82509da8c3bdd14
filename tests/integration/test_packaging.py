"""The wheel works outside the checkout; the constraint files agree with setup.py and the lanes."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tfpipe import __version__, lanes
from tfpipe.doctor import report

_HEAVY = ("tensorflow", "keras", "numpy", "librosa", "apache_beam", "grpc", "matplotlib", "beam_jobs", "serving")


def _copy(repo, folder) -> Path:
    """Copies the checkout without git's files, so that a build leaves nothing behind in it."""
    source = folder / "source"
    source.mkdir()
    names = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "constraints", "scripts", "tests"]
    names += ["docs", "examples", "tfpipe", "beam_jobs", "serving", "Cargo.toml", "Cargo.lock", "rustfmt.toml"]
    subprocess.run(["cp", "-rp", *(str(repo / name) for name in names if (repo / name).exists()), source], check=True)
    return source


def _without_rust() -> dict[str, str]:
    """The environment of a machine without Rust, on which a build takes a tenth of the time."""
    paths = [path for path in os.environ["PATH"].split(os.pathsep) if not (Path(path) / "cargo").exists()]
    return {**os.environ, "PATH": os.pathsep.join(paths)}


def _install(package, folder) -> Path:
    """Makes a virtual environment with a package in it, which uses the dependencies of this environment."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    command = [sys.executable, "-m", "pip", "install", *options, "--prefix", folder / "venv", package]
    subprocess.run(command, check=True, env=_without_rust())
    script = folder / "venv" / "bin" / "tfpipe"
    script.write_text(re.sub(r"^#!.*", f"#!{python}", script.read_text(), count=1))
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(ours + "\n")
    return folder / "venv"


def _build(repo, folder, environment) -> Path:
    """Builds a wheel of the checkout."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, _copy(repo, folder)]
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, repo) -> Path:
    return _build(repo, tmp_path_factory.mktemp("wheel"), _without_rust())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it."""
    return _install(wheel, tmp_path_factory.mktemp("installed"))


def _run(command, *, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_wheel_content(wheel, repo):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".rs", ".toml")) or "/native/" in name]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tfpipe", "beam_jobs", "serving", f"tfpipe-{__version__}.dist-info"}
    for package in ("tfpipe", "beam_jobs", "serving"):
        here = {str(path.relative_to(repo)) for path in (repo / package).rglob("*.py")}
        assert here == {name for name in names if name.startswith(f"{package}/") and name.endswith(".py")}
    messages = {str(path.relative_to(repo)) for path in (repo / "serving").rglob("*.pb")}
    assert messages == {name for name in names if name.endswith(".pb")}
    assert {"tfpipe/run_report/page.css", "tfpipe/run_report/page.js"} <= set(names)
    studio = {"index.html", "studio.css", "studio.js", "wavesurfer.esm.js", "wavesurfer.LICENSE"}
    assert {f"tfpipe/studio/static/{name}" for name in studio} <= set(names)
    browse = {
        "local_page/static/page.css",
        *(f"browse/static/{name}" for name in ("index.html", "browse.css", "browse.js")),
    }
    assert {f"tfpipe/{name}" for name in browse} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cargo"), reason="needs Rust")
def test_with_rust_the_wheel_holds_the_compiled_modules(tmp_path, repo):
    # The crates that the checkout's own build has compiled need not be compiled again.
    built = _build(repo, tmp_path, {**os.environ, "CARGO_TARGET_DIR": str(repo / "target")})
    # They work with any Python from 3.11 on.
    assert built.name.startswith(f"tfpipe-{__version__}-cp311-abi3-")
    modules = {f"{path}.abi3.so" for path in ("serving/server/_front", "tfpipe/bench/_load", "tfpipe/data/_records")}
    assert modules <= set(zipfile.ZipFile(built).namelist())


def test_no_message_names_a_file_that_only_a_checkout_has(repo):
    wrong = []
    for package in ("tfpipe", "beam_jobs", "serving"):
        for path in (repo / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            docstrings = {
                ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)
            }
            wrong += [
                f"{path.relative_to(repo)}:{node.lineno}: {node.value}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings
                if re.search("scripts/|constraints/", node.value)
            ]
    assert not wrong


def test_wheel_says_what_it_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(f"tfpipe-{__version__}.dist-info/METADATA").decode()
    assert re.search(r"^Requires-Python: .*>=3\.11", metadata, re.MULTILINE)
    assert {"gpu", "aws", "gcp", "dev", "evaluate"} == set(
        re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE)
    )
    assert "tfpipe = tfpipe.cli.main:entry" in archive.read(f"tfpipe-{__version__}.dist-info/entry_points.txt").decode()


def test_runs_in_an_empty_folder(installed, tmp_path, repo):
    where = _run([installed / "bin" / "python", "-c", "import tfpipe; print(tfpipe.__file__)"], cwd=tmp_path)
    assert where.stdout.startswith(str(installed))
    assert str(repo) not in where.stdout
    made = _run([installed / "bin" / "tfpipe", "synth", "corpus", "--tracks", "1", "--seconds", "1"], cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert len(list(tmp_path.glob("corpus/*/*.wav"))) == 2


@pytest.mark.slow
def test_the_sdist_that_setup_file_gives_to_workers_runs_the_job(tmp_path, repo):
    """Builds it as Beam does for `--setup_file`: without git and without a network."""
    source, outside = _copy(repo, tmp_path), tmp_path / "empty"
    outside.mkdir()
    alone = (
        ["unshare", "--net"] if os.geteuid() == 0 and not _run(["unshare", "--net", "true"], cwd="/").returncode else []
    )
    built = _run([*alone, sys.executable, "setup.py", "sdist", "--dist-dir", tmp_path], cwd=source)
    assert built.returncode == 0, built.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = [repo / package for package in ("tfpipe", "beam_jobs", "serving")]
    files = [path for folder in folders for kind in ("*.p?", "*.rs") for path in folder.rglob(kind)]
    tracked = _run(["git", "ls-files", "examples", "docs"], cwd=repo).stdout.splitlines()
    assert {*(str(path.relative_to(repo)) for path in files), *tracked} <= names
    assert {"README.md", "LICENSE", "setup.py", "pyproject.toml", "constraints/default.txt"} <= names

    bin_folder = _install(sdist, tmp_path) / "bin"
    where = _run([bin_folder / "python", "-c", "import beam_jobs.pipeline as it; print(it.__file__)"], cwd=outside)
    assert where.stdout.startswith(str(bin_folder.parent)), where.stderr
    made = _run([bin_folder / "tfpipe", "synth", "corpus", "--tracks", "3", "--seconds", "6"], cwd=outside)
    assert made.returncode == 0, made.stderr
    done = _run([bin_folder / "tfpipe", "preprocess", "corpus", "--output", "data", "--json"], cwd=outside)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["tracks"] == 6


def test_help_is_quick_and_light(installed, tmp_path):
    done = _run([installed / "bin" / "tfpipe", "--help"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "preprocess" in done.stdout
    code = "import sys, time; from tfpipe.cli.main import main; main(['--help'])\n"
    code += f"print([*sys.modules.keys() & {set(_HEAVY)}]); print(time.process_time())"
    loaded = _run([installed / "bin" / "python", "-c", code], cwd=tmp_path)
    heavy, seconds = loaded.stdout.splitlines()[-2:]
    assert heavy == "[]", loaded.stderr
    assert float(seconds) < 2.5  # processor time, under 0.5 s on an idle machine


def _constraints(repo, lane):
    lines = (repo / "constraints" / f"{lane}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[\w.!+]+", line) for line in lines)
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize("lane", list(lanes.LANES))
def test_constraints_pin_the_lane_within_the_ranges(repo, wheel, lane):
    pins = _constraints(repo, lane)
    assert {name: pins[name] for name in lanes.LANES[lane]} == dict(lanes.LANES[lane])
    metadata = zipfile.ZipFile(wheel).read(f"tfpipe-{__version__}.dist-info/METADATA").decode()
    requirements = [Requirement(text) for text in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    wanted = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": "dev"})]
    wanted += [r for r in requirements if r.marker is not None and r.marker.evaluate({"extra": "evaluate"})]
    assert len(wanted) > 20
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)


def test_every_import_is_declared(wheel, repo):
    """install_requires lists what the packages import, and nothing else; `evaluate` may import its extra."""
    provided_by = {
        "boto3": "apache-beam",  # the extra `aws`
        "botocore": "apache-beam",
        "grpc": "grpcio",
        "grpc_reflection": "grpcio-reflection",
        "google.protobuf": "protobuf",
        "ml_dtypes": "tensorflow",
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "tensorflow_serving": "tensorflow-serving-api",
    }
    imported = set()
    for package in ("tfpipe", "beam_jobs", "serving"):
        for path in (repo / package).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
            found += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
            imported |= {name if name.startswith("google.") else name.split(".")[0] for name in found}
    imported = {"google.protobuf" if name.startswith("google.protobuf") else name for name in imported}
    third_party = imported - set(sys.stdlib_module_names) - {"tfpipe", "beam_jobs", "serving"}
    metadata = zipfile.ZipFile(wheel).read(f"tfpipe-{__version__}.dist-info/METADATA").decode()
    requirements = [Requirement(text) for text in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    declared = {canonicalize_name(r.name) for r in requirements if r.marker is None}
    optional = [r for r in requirements if r.marker is not None and r.marker.evaluate({"extra": "evaluate"})]
    # Nothing imports TensorBoard, which shows what tf.summary writes, nor setuptools, which TensorBoard imports.
    names = {provided_by.get(name, canonicalize_name(name)) for name in third_party}
    names -= {canonicalize_name(requirement.name) for requirement in optional}
    assert names == declared - {"tensorboard", "setuptools"}
    assert set(report.PACKAGES) == declared - {"packaging", "setuptools"}
