"""Corpora and a dataset that several test modules read."""

from pathlib import Path

import pytest
from job_tools import config_for, run_here, write_corpus

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus_small"


@pytest.fixture(scope="session")
def job_corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def job_dataset(job_corpus, tmp_path_factory):
    """A complete dataset of the small corpus; do not change it."""
    output = tmp_path_factory.mktemp("dataset")
    run_here(config_for(job_corpus, output))
    return output


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Recordings at the default rate: the real clips where they are, else synthesized ones."""
    if REAL.is_dir():
        return sorted(REAL.rglob("*.wav"))
    folder = write_corpus(tmp_path_factory.mktemp("clips"), tracks=3, seconds=8.0, rate=22_050)
    return sorted(folder.rglob("*.wav"))
