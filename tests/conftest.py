"""Fixtures that all tests share."""

import os
import signal

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import pytest
from once import make_once
from s3_store import endpoint, keys, no_store, store  # noqa: F401

from tfpipe.process.gc_pause import pause_while_importing_tensorflow
from tfpipe.process.lean_keras import leave_out_optional_imports

# As the program `tfpipe` does: the test processes start sooner too.
leave_out_optional_imports()
pause_while_importing_tensorflow()

pytest_plugins = ["job_fixtures", "run_fixtures", "serving_fixtures", "training_fixtures"]

# A shell starts background jobs deaf to SIGINT, and all that they start; tests send it to what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).parent.parent

# The files that take longest, the longest first. They start first, so that none of them runs alone at the end while
# the other cores have nothing to do. The order changes nothing else.
LONGEST = (
    "integration/test_run.py",
    "integration/test_snippets.py",
    "tfpipe/training/test_strategy.py",
    "examples/test_python_examples.py",
    "integration/test_flink.py",
    "integration/test_spark.py",
    "tfpipe/training/test_slurm.py",
    "tfpipe/run_report/test_report.py",
    "serving/server/test_overload.py",
    "tfpipe/bench/test_serving.py",
    "tfpipe/bench/test_preprocess.py",
    "integration/test_s3_job.py",
    "integration/test_fuzz.py",
    "integration/test_packaging.py",
    "serving/checks/test_conformance.py",
    "tfpipe/evaluation/test_evaluate.py",
    "tfpipe/training/test_loop.py",
    "tfpipe/commands/test_client.py",
    "serving/client/test_draws.py",
    "tfpipe/data/test_file_systems.py",
    "tfpipe/data/test_data_service.py",
    "tfpipe/bench/test_gpu.py",
    "tfpipe/training/test_prior_training.py",
    "integration/test_long_recordings.py",
    "integration/test_training_page.py",
    "tfpipe/training/test_step.py",
    "tfpipe/features/test_log_mel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files first; `--no-loadscope-reorder` makes pytest-xdist keep this order."""
    rank = {REPO / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def synth_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Piano/ and Voice/, five synthesised tracks of 11 s each: the fewest that fill all splits."""
    from tfpipe.testing.synthesis import synthesise

    return make_once(
        tmp_path_factory, "synth_corpus", lambda folder: synthesise(folder, tracks_per_label=5, seconds=11.0)
    )


@pytest.fixture(scope="session")
def small_corpus(request: pytest.FixtureRequest) -> Path:
    """Twelve real clips of about 14 s where they lie beside the checkout, else the synthesised corpus."""
    real = REPO.parent / "shared" / "data" / "corpus_small"
    return real if real.is_dir() else request.getfixturevalue("synth_corpus")


@pytest.fixture(scope="session")
def dataset(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder that the Beam job made of the small corpus, with one shift."""
    from beam_jobs.config import PreprocessConfig
    from beam_jobs.job import preprocess

    def make(folder: Path) -> None:
        config = PreprocessConfig(inputs=(str(small_corpus),), output=str(folder), semitones=(0, 7), chords=())
        preprocess(config, quiet=True)

    return make_once(tmp_path_factory, "dataset", make)
