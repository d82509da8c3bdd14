"""The latents file: what is written is read again, old files too, and files that are none are refused."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.evaluation.latents import Latents, read_latents, write_latents

SMALLEST = Latents(z_mean=np.zeros((2, 4), np.float32), ref_db=np.array([9.0, 8.0], np.float32))
OF_SCORE = dataclasses.replace(
    SMALLEST,
    z_log_var=np.ones((2, 4), np.float32),
    start_s=np.array([0.0, 5.0]),
    path=np.array(["a/ü.wav"]),
    track=np.zeros(2, np.int32),
    label=np.array(["Piano"]),
    mse=np.array([0.1, 0.2], np.float32),
    kl=np.array([3.0, 4.0], np.float32),
    fingerprint="0123456789abcdef",
    checkpoint={"preset": "tiny", "dataset": "d", "epoch": 3, "step": 120, "weights": "w"},
)
OF_CLIENT = dataclasses.replace(OF_SCORE, path=np.array(["a.wav", "b.wav"]), track=None, label=None, mse=None, kl=None)


@pytest.mark.parametrize("latents", [SMALLEST, OF_SCORE, OF_CLIENT], ids=["smallest", "score", "client"])
def test_what_is_written_is_read_again(latents: Latents, tmp_path: Path) -> None:
    write_latents(tmp_path / "x.npz", latents)
    read = read_latents(str(tmp_path / "x.npz"))
    for field in dataclasses.fields(Latents):
        ours, theirs = getattr(latents, field.name), getattr(read, field.name)
        assert type(ours) is type(theirs), field.name
        assert np.array_equal(ours, theirs), field.name
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_the_arrays_of_a_file_have_the_documented_names(tmp_path: Path, repo: Path) -> None:
    write_latents(tmp_path / "x.npz", OF_SCORE)
    page = (repo / "docs" / "FORMATS.md").read_text()
    with np.load(tmp_path / "x.npz") as file:
        assert set(file.files) == {field.name for field in dataclasses.fields(Latents)}
        assert all(f"| `{name}` |" in page for name in file.files)
        assert json.loads(str(file["checkpoint"]))["step"] == 120
        assert str(file["fingerprint"]) == OF_SCORE.fingerprint


def test_a_file_of_an_older_version_is_read(tmp_path: Path, repo: Path) -> None:
    with tarfile.open(repo / "tests" / "resources" / "before_folders.tar.xz") as archive:
        archive.extract("./latents.npz", tmp_path, filter="data")
    latents = read_latents(tmp_path / "latents.npz")
    assert latents.z_mean.shape == (36, 4)
    assert latents.track is not None
    assert latents.path is not None
    assert latents.track.max() == len(latents.path) - 1
    assert latents.checkpoint["preset"] == "tiny"
    assert len(latents.fingerprint) == 16


def test_a_file_with_only_z_mean_and_ref_db_is_enough(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", z_mean=np.zeros((1, 4)), ref_db=np.zeros(1), anything=np.zeros(3))
    latents = read_latents(tmp_path / "x.npz")
    assert latents.path is None
    assert latents.differences(fingerprint="any", checkpoint={"step": 7}) == []


def test_a_difference_names_what_differs() -> None:
    same = {"preset": "tiny", "dataset": "d", "epoch": 3, "step": 120}
    assert OF_SCORE.differences(fingerprint="0123456789abcdef", checkpoint=same) == []
    assert OF_SCORE.differences(fingerprint="0123456789abcdef", checkpoint={"epoch": 3}) == []
    assert OF_SCORE.differences(fingerprint="f", checkpoint={**same, "step": 240}) == [
        "fingerprint 0123456789abcdef in the file, f in the model",
        "step 120 in the file, 240 in the model",
    ]


@pytest.mark.parametrize("kind", ["text", "empty", "npy", "other arrays", "no windows", "NaN"])
def test_what_is_no_latents_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    nan = np.full((1, 4), np.nan)
    arrays = {
        "other arrays": {"mel": np.zeros(3)},
        "no windows": {"z_mean": np.zeros((0, 4)), "ref_db": np.zeros(0)},
        "NaN": {"z_mean": nan, "ref_db": np.zeros(1)},
    }
    if kind in arrays:
        np.savez(path, **arrays[kind])
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(b"no archive" if kind == "text" else b"")
    with pytest.raises(UsageError, match=r"x\.npz: (is not a latents file|holds no latents, or NaN)"):
        read_latents(path)


def test_a_missing_file_and_a_full_path_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(TfpipeError, match=r"gone\.npz: no such file"):
        read_latents(tmp_path / "gone.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(TfpipeError, match="file"):
        write_latents(tmp_path / "file" / "x.npz", SMALLEST)
