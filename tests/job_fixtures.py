"""Fixtures of the Beam job: corpora, a dataset that several test modules read, and jobs without a child process."""

import shutil
from pathlib import Path

import pytest
from engine_tools import config
from job_tools import config_for, run_here, run_without_beam, write_corpus
from once import make_once

from beam_jobs.reuse import SCANS
from tfpipe.data.manifest import MANIFEST

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus_small"


@pytest.fixture(scope="session")
def job_corpus(tmp_path_factory):
    """Six short files under each of two labels."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def job_dataset(job_corpus, tmp_path_factory):
    """A complete dataset of `job_corpus`; tests must not change it."""
    output = tmp_path_factory.mktemp("dataset")
    run_here(config_for(job_corpus, output))
    return output


@pytest.fixture
def made(job_corpus, job_dataset, tmp_path):
    """A copy of `job_corpus` and the dataset of that copy, which a test may change."""
    source, output = shutil.copytree(job_corpus, tmp_path / "in"), shutil.copytree(job_dataset, tmp_path / "out")
    for name in (SCANS, MANIFEST):  # these name the recordings by their paths
        text = (output / name).read_text()
        (output / name).write_text(text.replace(str(job_corpus), str(source)))
    return source, output


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Recordings at the default sample rate: real clips if they lie beside the checkout, else synthesised ones."""
    if REAL.is_dir():
        return sorted(REAL.rglob("*.wav"))
    folder = write_corpus(tmp_path_factory.mktemp("clips"), tracks=3, seconds=8.0, rate=22_050)
    return sorted(folder.rglob("*.wav"))


@pytest.fixture(scope="session")
def local(clips, tmp_path_factory):
    """The dataset of the clips that every engine must make, made without Beam; tests must not change it."""
    return make_once(tmp_path_factory, "local", lambda output: run_without_beam(config(clips, output)))


@pytest.fixture
def in_process(monkeypatch):
    """Runs the pipeline of `preprocess` in the test's own process, which saves starting a child."""
    from beam_jobs import job, pipeline

    monkeypatch.setattr(job, "run_in_child", lambda task, *, quiet, verbose: pipeline.run(task))
