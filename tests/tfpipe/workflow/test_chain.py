"""What the chain refuses before any work is done; tests/integration/test_run.py runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfpipe.data.manifest import load_manifest
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.files.storage import WORK_STATE, folder_lock
from tfpipe.training.run_folder import claim
from tfpipe.workflow import chain


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with one recording that is shorter than any window may be."""
    folder = tmp_path / "short"
    folder.mkdir()
    soundfile.write(folder / "a.wav", 0.1 * np.ones(1000), 22_050)
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latent": 0}, "latent=0"),
        ({"preset": "huge"}, "preset"),
        ({"fmax": 20_000}, "fmax"),
        ({"model_name": "a/b"}, "model name 'a/b'"),
        ({"no_such": 1}, "no_such: no such setting"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_made(corpus, tmp_path, settings, words):
    with pytest.raises(TfpipeError, match=words):
        chain.run([corpus], tmp_path / "work", **settings)
    assert not (tmp_path / "work").exists()


def test_a_folder_with_files_of_somebody_else_is_left_alone(corpus, tmp_path):
    mine = tmp_path / "project" / "check" / "mine.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    with pytest.raises(TfpipeError, match="would be replaced; use another work folder"):
        chain.run(corpus, tmp_path / "project")
    assert mine.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("workdir", "words"), [("", "name is empty"), ("short", "an input folder"), ("s3://b/w", "local")]
)
def test_a_work_folder_that_cannot_be_one_is_refused(corpus, tmp_path, monkeypatch, workdir, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        chain.run(corpus, workdir)


def test_recordings_without_a_window_give_one_sentence(corpus, tmp_path):
    with pytest.raises(TfpipeError, match="shorter than"):
        chain.run(corpus, tmp_path / "work", quiet=True)


def test_a_second_run_in_the_same_folder_is_refused(corpus, tmp_path):
    with folder_lock(tmp_path / "work", what="tfpipe run"), pytest.raises(TfpipeError, match="another tfpipe run"):
        chain.run(corpus, tmp_path / "work")


def test_a_run_that_has_begun_goes_on_unless_its_settings_are_others(corpus, small, tmp_path):
    def of(**settings):
        made = chain.Chain.of(corpus, tmp_path / "work", preset="tiny", **settings)
        chain._set_aside_other_run(made)
        return made

    work = tmp_path / "work"
    run = work / "run"
    work.mkdir()
    (work / WORK_STATE).write_text("{}")
    shutil.copytree(small, work / "data")
    claim(run, of(latent="2x4").train_config, load_manifest(work / "data"))
    # The size of a run that has begun is kept: in an earlier version the default was another one.
    for same in ({}, {"latent": "2x4"}):
        of(**same)
        assert (run / "config.json").exists()
    of(seed=7)
    assert not run.exists()
    assert (work / "previous" / "run" / "config.json").exists()
    claim(run, of().train_config, load_manifest(work / "data"))
    of()
    assert (run / "config.json").exists()
    # A run of another dataset may have a latent that does not fit the windows of this one.
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**stored, "dataset": "other", "latent_shape": [27, 96]}))
    of()
    assert not run.exists()
