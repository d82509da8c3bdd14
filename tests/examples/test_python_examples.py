"""The examples in Python run as a user runs them, on real recordings where they are, and write what they promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import environment
from matplotlib.image import imread

import tfpipe as tp
from tfpipe.features.log_mel import dequantise

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run(name, *options, **settings):
    """Runs an example; without a window system, as on a server."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, options)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(MPLBACKEND="agg"), timeout=500, **settings
    )


def require_sound(path, spec):
    """Fails unless a wav holds one window that is louder than silence (draws of a short training are quiet)."""
    audio, rate = soundfile.read(path)
    assert (audio.shape, rate) == ((spec.samples,), spec.sample_rate)
    assert 20 * np.log10(np.sqrt(np.mean(audio**2))) > -55


def require_picture(path):
    """Fails unless a PNG shows a spectrogram: many colours, beside the white around it."""
    pixels = imread(path)[..., :3].reshape(-1, 3)
    coloured = pixels[np.ptp(pixels, axis=1) > 0.1]
    assert len(coloured) > 0.3 * len(pixels)
    assert len(np.unique(np.round(coloured, 2), axis=0)) > 50


@pytest.mark.slow
def test_the_notebook_shows_what_the_original_showed(few_recordings, tmp_path):
    options = ("--preset", "tiny", "--epochs", 2, "--prior-steps", 20)
    done = run("notebook.py", "--recordings", few_recordings, "--out", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    labels = [folder.name for folder in sorted(few_recordings.iterdir())]
    assert {path.stem for path in tmp_path.glob("*.png")} == {"spectrogram", "variants", "reconstruction", "draws"}
    for path in tmp_path.glob("*.png"):
        require_picture(path)
    sounds = {"reconstruction", *(f"draw-{label}" for label in labels)}
    assert {path.stem for path in tmp_path.glob("*.wav")} == sounds
    for path in tmp_path.glob("*.wav"):
        require_sound(path, tp.FeatureSpec())
    assert re.search(r"^2 epochs; best validation loss ", done.stdout, re.MULTILINE)
    assert set(tp.inspect(tmp_path / "data")["labels"]) == set(labels)


def test_in_a_notebook_the_arguments_of_its_process_are_left_alone(tmp_path):
    code = (
        "import runpy, sys\n"
        "sys.modules['ipykernel'] = sys\n"
        "sys.argv = ['ipykernel_launcher', '-f', 'kernel.json']\n"
        f"runpy.run_path({str(EXAMPLES / 'notebook.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("recordings: no recordings (.wav, .flac, ")
    assert done.stderr.endswith("give their folder with --recordings\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_of_ones_own_learns_and_answers(small_corpus, tmp_path):
    done = run("own_model.py", "--recordings", small_corpus, "--out", tmp_path, "--epochs", 15)
    assert done.returncode == 0, done.stderr
    for name in ("reconstruction.wav", "draw.wav"):
        require_sound(tmp_path / name, tp.FeatureSpec())
    # It has learned more than one grey for everything.
    windows = {
        split: np.concatenate([dequantise(batch["mel"]) for batch in batches.as_numpy_iterator()])
        for split in ("train", "validation")
        for batches in [tp.make_dataset(tmp_path / "data", split=split)]
    }
    [error] = re.findall(r"^mean squared error on recordings held out: (.*)$", done.stdout, re.MULTILINE)
    assert 0 < float(error) < 0.95 * np.mean((windows["validation"] - windows["train"].mean()) ** 2)
    with tp.load(tmp_path / "models" / "own") as vae:
        assert vae.describe()["metadata"]["networks"] == "own"
        rebuilt = vae.reconstruct(windows["validation"][..., 0])
    assert np.mean((rebuilt - windows["validation"][..., 0]) ** 2) == pytest.approx(float(error), abs=2e-4)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_it_uses_public_names_alone(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "tfpipe" in imported
    assert not {name for name in imported if name.startswith(("tfpipe.", "serving", "beam_jobs"))}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tp"}
    assert used
    assert used <= set(tp.__all__)


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text()
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert len(names) == 4
    assert not [name for name in names if f"]({name}" not in listed and f"]({name}/" not in listed]
