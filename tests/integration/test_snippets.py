"""Every block of code on the pages is run here, run by a test that is named here, or listed with the reason.

The blocks run in a folder with what the pages name: `recordings`, `song.wav`, a dataset `data`, a trained `run`, an
exported `models/vae`. So that this takes seconds, the dataset is one of half-second windows, training commands get
options such as `--preset tiny --epochs 1` added, and the model behind `localhost:8500` has windows of one second.
Each recipe below lists what it adds to a block or replaces in it. All else runs as it is on the page.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from helpers import ROOT, slow
from page_snippets import Recipe, blocks, find, run_python, run_shell

from beam_jobs.corpus import discover
from tfpipe.audio.wav import write_wav

Key = tuple[str, str]
Ports = Callable[[], tuple[int, int]]

# These options are added to training commands, so that they take seconds.
TINY = "--preset tiny --epochs 1 --prior-steps 5 --batch-size 48"
# The same without a prior, in half of the time, for blocks that are not about it.
TINIEST = "--preset tiny --epochs 1 --prior none --batch-size 48"

# The blocks that run here. A key names a block by its page and by words that no other block of the page contains.
RUN: dict[Key, Recipe] = {
    ("README.md", "tfpipe reconstruct song.wav"): Recipe(
        replace={"--seconds 30": "--seconds 3"}, makes=("out/song-reconstruction.wav", "out/generated.png")
    ),
    ("docs/CLIENTS.md", "tfpipe serve"): Recipe(),
    ("README.md", 'tp.preprocess("recordings"'): Recipe(
        without=("data", "run", "models"),
        replace={
            "semitones=(0, 4, 7)": "semitones=(0,), chords=(), window_s=1.0, n_mels=32",
            'tp.train("data", "run")': 'tp.train("data", "run", preset="tiny", epochs=1, prior_steps=5, batch_size=64)',
            'tp.evaluate("data", run)': 'tp.evaluate("data", run, draws=0)',
        },
        makes=("data/dataset.json", "run/DONE", "models/vae/1/saved_model.pb"),
        shapes={"audio": (3, 22_050)},
    ),
    ("docs/EVALUATION.md", "tfpipe evaluate"): Recipe(without=("run/evaluation.json",), makes=("run/evaluation.json",)),
    ("docs/FEATURES.md", "tfpipe train-vocoder"): Recipe(
        more={"tfpipe train-vocoder": "--steps 2"},
        leave_out={"tfpipe export": "takes 20 s; the same command in SERVING.md is run"},
        makes=("run/vocoder",),
    ),
    ("docs/FEATURES.md", "--mixup"): Recipe(more={"tfpipe train": TINIEST}, without=("run",), makes=("run/DONE",)),
    ("docs/FORMATS.md", "TFRecordDataset"): Recipe(
        begin="import numpy as np\nimport tensorflow as tf",
        replace={"(128, 216)": "(16, 16)", '"data/': '"small/'},
        shapes={"mel": (16, 16)},
    ),
    ("docs/REPORT.md", "tfpipe report"): Recipe(
        makes=("run/report.html", "report.html", "run/report-windows.parquet"),
    ),
    ("docs/RUNNERS.md", "tfpipe preprocess recordings --output data --workers 4"): Recipe(
        without=("data",), makes=("data/dataset.json",)
    ),
    ("docs/SERVING.md", "tfpipe export --run run"): Recipe(makes=("models/vae/1/saved_model.pb",)),
    ("docs/SERVING.md", "ffplay"): Recipe(
        leave_out={"ffplay": "plays sound without an end, and needs a sound card"}, makes=("piano.wav",)
    ),
    ("docs/SERVING.md", "--write-api-model"): Recipe(makes=("models/api/1/saved_model.pb",)),
    ("docs/SERVING.md", "tfpipe client status"): Recipe(
        replace={"--seconds 30": "--seconds 3", "--seconds 20": "--seconds 2"},
        makes=("out/song-reconstruction.wav", "out/interpolation.wav", "out/song-continued.wav", "latents.npz"),
    ),
    ("docs/SERVING.md", "tfpipe interpolate a.wav b.wav --steps 8 --model"): Recipe(
        replace={"--seconds 30": "--seconds 3"},
        makes=("out/song-reconstruction.wav", "out/interpolation.wav", "out/song-variation.wav", "out/generated.png"),
    ),
    ("docs/SERVING.md", 'tp.Client("localhost:8500") as vae:\n    made'): Recipe(shapes={"audio": (3, 22_050)}),
    ("docs/SERVING.md", "vae = tp.load"): Recipe(shapes={"audio": (661_500,)}, makes=("piano.wav",)),
    ("docs/SERVING.md", "rebuild_file"): Recipe(shapes={"song": (66_150,)}),
    ("docs/SERVING.md", "printf"): Recipe(makes=("rebuilt.wav", "generated.wav")),
    ("docs/STUDIO.md", "tfpipe studio"): Recipe(trained=True),
    ("docs/TRAINING.md", "tfpipe train --data data --run run\n"): Recipe(
        more={"tfpipe train": TINY}, makes=("run/DONE", "run/prior/DONE")
    ),
    ("docs/TRAINING.md", "--prior none"): Recipe(without=("run",), more={"tfpipe train": TINY}, makes=("run/DONE",)),
    ("docs/TRAINING.md", "--init many-run"): Recipe(more={"tfpipe train": TINIEST}, makes=("mine-run/DONE",)),
    ("docs/TRAINING.md", "trains 20 more"): Recipe(
        without=("run",),
        more={
            "tfpipe train --data data --run run --epochs 20": TINIEST,
            "tfpipe train --data data --run run --epochs 40": f"{TINIEST} --epochs 2",
        },
        makes=("run/DONE",),
    ),
}
# These make the run, its report and its exported model, in this order; the other blocks find what they made.
FIRST: tuple[Key, ...] = (
    ("docs/TRAINING.md", "tfpipe train --data data --run run\n"),
    ("docs/REPORT.md", "tfpipe report"),
    ("docs/SERVING.md", "tfpipe export --run run"),
)
# These take less than a second once the model is exported, which other tests need too.
QUICK = ("TFRecordDataset", "ffplay", "printf", "rebuild_file")
# Those of them that take less than a second without the model too.
FAST = ("TFRecordDataset",)

# Blocks that another test runs.
ELSEWHERE: dict[Key, str] = {
    ("docs/BUCKETS.md", "s3://bucket/recordings"): "tests/integration/test_buckets_page.py",
    ("docs/CLIENTS.md", "jq -r"): "tests/serving/client/test_client_page.py",
    ("docs/CLIENTS.md", "urllib"): "tests/serving/client/test_client_page.py",
    ("docs/CLIENTS.md", "node:fs/promises"): "tests/serving/client/test_client_page.py",
    ("docs/CLIENTS.md", "package main"): "tests/serving/client/test_client_page.py",
    ("docs/FORMATS.md", "maskedCrc"): "tests/tfpipe/data/test_formats_page.py",
    ("docs/TRAINING.md", "run.best"): "tests/integration/test_training_page.py",
}

# Blocks that no test runs as they stand, and why. Tests named here run the same thing in other words.
NOT_RUN: dict[Key, str] = {
    ("README.md", "scripts/demo"): "installs an environment; test_run.py runs the chain, test_packaging.py installs",
    ("README.md", "pip install . &&"): "installs; test_packaging.py does so, and test_run.py runs `tfpipe run`",
    ("CONTRIBUTING.md", "scripts/setup"): "installs environments and runs all tests, this one too",
    ("serving/deploy/README.md", "docker compose"): "pulls an image; test_deploy.py checks the files against schemas",
    ("serving/deploy/README.md", "kubectl apply"): "needs a cluster; test_deploy.py checks the files against schemas",
    ("serving/deploy/README.md", "aws s3 sync"): "needs a bucket and an account",
    ("docs/CLIENTS.md", "grpcurl"): "grpcurl is no Python package; the clients of other languages are run",
    ("docs/DISTRIBUTED.md", "scripts/launch_local"): "takes two processes' time; test_strategy.py runs the launcher",
    ("docs/DISTRIBUTED.md", "sbatch"): "needs Slurm; test_slurm.py runs it on a Slurm of two nodes",
    ("docs/DISTRIBUTED.md", "kubectl apply"): "needs a cluster",
    ("docs/DISTRIBUTED.md", "TF_CONFIG"): "needs two hosts; test_strategy.py trains with TF_CONFIG on one",
    ("docs/EVALUATION.md", "pip install"): "installs; the tests of these measurements need the same packages",
    ("docs/INSTALL.md", "constraints/default.txt"): "installs; test_packaging.py does so",
    ("docs/INSTALL.md", "tfpipe-stamp"): "removes the environment that runs the tests",
    ("docs/REMOTE_TRAINING.md", "s3://bucket/data"): "needs a bucket; test_data_service.py and test_file_systems.py",
    ("docs/RUNNERS.md", "scripts/flink get"): "downloads 400 MB; test_flink.py runs it",
    ("docs/RUNNERS.md", "'[local]'"): "needs Java and Flink; test_flink.py runs such a job",
    ("docs/RUNNERS.md", "HOST:8081"): "needs a cluster of several hosts",
    ("docs/RUNNERS.md", "worker_pool_main"): "runs until it is ended; scripts/flink starts it in test_flink.py",
    ("docs/RUNNERS.md", "options=$(scripts/flink start)"): "needs Java and Flink; test_flink.py runs such a job",
    ("docs/RUNNERS.md", "scripts/spark get"): "downloads 300 MB; test_spark.py runs both commands",
    ("docs/RUNNERS.md", "options=$(scripts/spark start)"): "needs Java and Spark; test_spark.py runs such a job",
    ("docs/RUNNERS.md", "'local[4]'"): "needs Java and Spark; test_spark.py runs such a job",
    ("docs/RUNNERS.md", "spark://HOST"): "needs a Spark cluster",
    ("docs/RUNNERS.md", "gs://BUCKET"): "needs a project at Google Cloud",
}


@pytest.fixture(scope="module")
def light(
    small_corpus: Path,
    job_dataset: Path,
    small: Path,
    recordings: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with recordings and datasets."""
    folder = tmp_path_factory.mktemp("light")
    for name, target in (("recordings", small_corpus), ("data", job_dataset), ("mine", job_dataset), ("small", small)):
        os.symlink(target, folder / name)
    for name, source in (("song", recordings[0]), ("a", recordings[0]), ("b", recordings[1])):
        audio, rate = soundfile.read(source)
        write_wav(folder / f"{name}.wav", audio[: 3 * rate], rate)
    return folder


@pytest.fixture(scope="module")
def full(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a trained run, its report, and its exported model, made by the commands of the pages."""
    folder = shutil.copytree(light, tmp_path_factory.mktemp("full") / "work", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for key in FIRST:
            _run_block(key, _no_server)
    os.symlink("run", folder / "many-run")
    (folder / "work").mkdir()
    os.symlink("../models", folder / "work" / "models")
    return folder


def _no_server() -> tuple[int, int]:
    raise AssertionError("the block needs a server")


def _run_block(key: Key, ports: Ports) -> None:
    """Runs a block in the working directory, and checks what it makes."""
    recipe = RUN[key]
    for name in recipe.makes:
        assert not Path(name).exists(), "it would prove nothing"
    (block,) = find(*key)
    (run_python if block.language == "python" else run_shell)(block, recipe, ports)
    assert [name for name in recipe.makes if not Path(name).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("key", FIRST, ids=": ".join)
def test_a_block_that_others_need_runs(key: Key, full: Path) -> None:
    assert [name for name in RUN[key].makes if not (full / name).exists()] == []


def _marked(keys: Iterable[Key]) -> list[Any]:
    return [key if key[1] in FAST else slow(key) for key in keys]


@pytest.mark.parametrize("key", _marked(key for key in RUN if key not in FIRST), ids=": ".join)
def test_a_block_runs(
    key: Key, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    recipe = RUN[key]
    prepared = request.getfixturevalue("light" if key[1] in QUICK else "full")
    folder = shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    if key[1] not in QUICK and not recipe.trained:
        shutil.rmtree("models")
        shutil.copytree(request.getfixturevalue("prior_exported"), "models/vae/1")
    for path in map(Path, recipe.without):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def ports() -> tuple[int, int]:
        server = request.getfixturevalue("prior_server")
        return server.port, server.rest_port

    _run_block(key, ports)


def test_each_block_is_run_or_listed() -> None:
    listed = Counter(block for key in (*RUN, *ELSEWHERE, *NOT_RUN) for block in find(*key))
    assert [block for block in blocks() if block not in listed] == []
    assert [block for block, times in listed.items() if times > 1] == []


@pytest.mark.parametrize("key", [*RUN, *ELSEWHERE, *NOT_RUN], ids=": ".join)
def test_a_listed_block_is_on_its_page(key: Key) -> None:
    assert len(find(*key)) == 1


@pytest.mark.parametrize("path", sorted(set(ELSEWHERE.values())))
def test_the_test_of_a_page_names_the_page(path: str) -> None:
    pages = {page for (page, _), test in ELSEWHERE.items() if test == path}
    assert [page for page in pages if Path(page).name not in (ROOT / path).read_text()] == []


@pytest.mark.parametrize("key", [key for key, reason in NOT_RUN.items() if "test_" in reason], ids=": ".join)
def test_the_tests_that_a_reason_names_exist(key: Key) -> None:
    names = re.findall(r"test_\w+\.py", NOT_RUN[key])
    assert [name for name in names if not list((ROOT / "tests").rglob(name))] == []


def test_the_lists_of_recordings_are_read(light: Path, tmp_path: Path) -> None:
    """The two lists of INPUTS.md, with recordings in the places that they name."""
    first, second = re.findall(r"```(?:csv)?\n(path,.*?)```", (ROOT / "docs" / "INPUTS.md").read_text(), re.DOTALL)
    for text, name in ((first, "list.csv"), (second, "splits.csv")):
        (tmp_path / name).write_text(text)
        for line in text.splitlines()[1:]:
            place = tmp_path / line.partition(",")[0]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(light / "song.wav", place)
    found = discover((str(tmp_path / "list.csv"),))
    assert [(file.label, file.group) for file in found.files] == [("Piano", "anna")] * 2
    split = discover((str(tmp_path / "recordings"),), splits_from=str(tmp_path / "splits.csv"))
    assert len(split.files) == 2
