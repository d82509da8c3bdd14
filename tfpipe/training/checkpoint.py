"""Checkpoints that are whole or absent. NumPy only, so that anyone can read one.

`checkpoints/step-00000120/` holds `state.npz` (weights and optimizer variables
by name) and `state.json` (epoch, step, sums so far, checksum of the arrays).
`latest.json` and `best.json` name one of these folders; those that hold an
empty file `KEEP` stay when neither does.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.errors import RunError, UsageError, translate_os_errors
from tfpipe.files.storage import read_json, sha256_file, write_bytes, write_json

LATEST, BEST = "latest", "best"
_KEEP = "KEEP"
_NUMBERED = re.compile(r"step-\d{8,}")


class Checkpoint(NamedTuple):
    """Arrays by name, and the JSON state beside them."""

    arrays: dict[str, NDArray[Any]]
    state: dict[str, Any]


def save(
    folder: Path,
    arrays: Mapping[str, NDArray[Any]],
    state: Mapping[str, Any],
    *,
    step: int,
    best: bool = False,
    keep: bool = False,
) -> Path:
    """Writes a checkpoint and makes it `latest` (and `best`), then drops those nothing points to.

    Args:
        folder: the run's `checkpoints/`.
        arrays: what to keep.
        state: JSON values to keep beside them.
        step: global step, for the name.
        best: also make it `best`.
        keep: never drop it.

    Raises:
        TfpipeError: disk full or another OS error; older checkpoints stay as they were.
    """
    name = f"step-{step:08d}"
    temporary = folder / f".{name}.tmp-{os.getpid()}"
    with translate_os_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            # In memory first: a zip file cut off by a full disk complains once more when it is dropped.
            packed = io.BytesIO()
            np.savez(packed, **arrays)
            write_bytes(temporary / "state.npz", packed.getvalue())
            write_json(temporary / "state.json", {**state, "sha256": hashlib.sha256(packed.getbuffer()).hexdigest()})
            if keep:
                (temporary / _KEEP).touch()
            # The same step is written twice when a run is stopped right after an epoch's end.
            shutil.rmtree(folder / name, ignore_errors=True)
            os.rename(temporary, folder / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    if best:
        write_json(folder / f"{BEST}.json", {"checkpoint": name})
    write_json(folder / f"{LATEST}.json", {"checkpoint": name})
    _prune(folder)
    return folder / name


def load(folder: Path, which: str = LATEST) -> Checkpoint | None:
    """Reads the checkpoint that `which` names: `latest`, `best`, or one by its own name such as `step-00000120`.

    Returns:
        The checkpoint; None while there is no latest or best yet.

    Raises:
        RunError: it is missing or damaged.
    """
    name = which if _NUMBERED.fullmatch(which) else pointed(folder, which)
    if name is None:
        return None
    path = folder / name
    if not path.is_dir():
        there = ", ".join(sorted(other.name for other in folder.glob("step-*"))) or "none"
        raise RunError(f"{path}: the checkpoint is gone (there: {there}); use another, or train into a new run folder")
    state = read_json(path / "state.json")
    with translate_os_errors(path):
        if sha256_file(path / "state.npz") != state.pop("sha256", None):
            raise RunError(f"{path}: the checkpoint is damaged (checksum differs); train again into a new run folder")
        with np.load(path / "state.npz", allow_pickle=False) as file:
            return Checkpoint({name: file[name] for name in file.files}, state)


def pointed(folder: Path, which: str = LATEST) -> str | None:
    """Returns the name of the checkpoint that is `latest` or `best`, None while there is none.

    Raises:
        UsageError: `which` is no such word.
    """
    if which not in (LATEST, BEST):
        raise UsageError(f"checkpoint {which!r} is unknown; use best, latest, or a name such as step-00000120")
    pointer = folder / f"{which}.json"
    return read_json(pointer)["checkpoint"] if pointer.exists() else None


def digest(saved: Checkpoint) -> str:
    """Returns the SHA-256 over names, shapes and values of a checkpoint's arrays."""
    sha256 = hashlib.sha256()
    for name, array in sorted(saved.arrays.items()):
        sha256.update(f"{name} {array.dtype} {array.shape} ".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def _prune(folder: Path) -> None:
    """Drops checkpoints that no pointer names and what killed writers left."""
    keep = {read_json(pointer)["checkpoint"] for pointer in folder.glob("*.json")}
    for path in [*folder.glob("step-*"), *folder.glob(".step-*")]:
        if path.name not in keep and not (path / _KEEP).exists():
            shutil.rmtree(path, ignore_errors=True)
