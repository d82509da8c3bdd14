"""A dataset of tiny windows, on which every preset trains within seconds; a run on it; Slurm's commands."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from once import make_once

from tfpipe.data.manifest import MANIFEST, Manifest, Shard
from tfpipe.data.records import Example, encode_example, write_record
from tfpipe.spec import FeatureSpec

if TYPE_CHECKING:
    from tfpipe.training.run_folder import Run

_SCONTROL = """#!/bin/sh
[ "$1 $2" = "show hostnames" ] || exit 1
case $3 in
  "gpu[01-03]") printf "gpu01\\ngpu02\\ngpu03\\n" ;;
  here) echo 127.0.0.1 ;;
  *) exit 1 ;;
esac
"""
# Starts two tasks as srun does, and ignores the options.
_SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NODELIST=here SLURM_STEP_TASKS_PER_NODE=2
SLURM_PROCID=1 "$@" >/dev/null &
SLURM_PROCID=0 "$@" && wait -n
"""
# 16 bands, 16 frames.
SMALL_SPEC = FeatureSpec(n_mels=16, window_s=15 * 512 / 22_050)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 12 validation windows, each with one bump at a random place."""
    return make_once(tmp_path_factory, "small", _write_small)


def _write_small(folder: Path) -> None:
    rng = np.random.default_rng(0)
    band, frame = np.mgrid[0:16, 0:16]
    shards = []
    for split, count in (("train", 60), ("validation", 12)):
        name = f"{split}-00000-of-00001.tfrecord"
        with open(folder / name, "wb") as file:
            for index in range(count):
                (row, column), width = rng.uniform(2, 13, 2), rng.uniform(2, 6)
                bump = np.exp(-((band - row) ** 2 + (frame - column) ** 2) / width**2)
                example = Example(
                    mel=np.rint(255 * bump).astype(np.uint8),
                    ref_db=3.0,
                    label=0,
                    track="0" * 64,
                    start_s=5.0 * index,
                    variant="original",
                    key=f"{split}/{index:04d}/original",
                )
                write_record(file, encode_example(example))
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        shards.append(Shard(name=name, split=split, examples=count, bytes=len(data), sha256=digest, variants={}))
    manifest = Manifest(spec=SMALL_SPEC, labels=("any",), shards=tuple(shards))
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict()))


@pytest.fixture(scope="session")
def trained(small: Path, tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A finished run of three epochs on `small`. Tests must not change its folder."""
    from training_tools import train_config

    from tfpipe.training.loop import train
    from tfpipe.training.run_folder import load_run

    return load_run(
        make_once(tmp_path_factory, "trained", lambda folder: train(train_config(small, folder), quiet=True))
    )


@pytest.fixture(scope="session")
def run_of_two(small: Path, tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A finished run of two workers with a prior. Tests must not change its folder."""
    from training_tools import WITH_PRIOR, train_together

    from tfpipe.training.run_folder import load_run

    return load_run(
        make_once(tmp_path_factory, "run_of_two", lambda folder: train_together(small, folder, **WITH_PRIOR))
    )


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `scontrol` and `srun` first in PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("scontrol", _SCONTROL), ("srun", _SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
