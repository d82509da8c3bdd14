"""Checkpoints. A checkpoint is written whole or not at all, and can be read with NumPy alone.

`checkpoints/step-00000120/` holds `state.npz` (weights and optimizer variables by name) and `state.json`
(epoch, step, sums of the unfinished epoch, checksum of the arrays). `latest.json` and `best.json` each
name one of these folders. The other folders are deleted, unless they hold an empty file `KEEP`.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfpipe.errors import RunError, UsageError, translate_os_errors
from tfpipe.files.storage import atomic_folder, read_json, sha256_file, write_bytes, write_json

LATEST, BEST = "latest", "best"
_KEEP = "KEEP"
_NUMBERED = re.compile(r"step-\d{8,}")


class Checkpoint(NamedTuple):
    """Arrays by name, and JSON values that describe the state of the run."""

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
    """Writes a checkpoint, makes it `latest` (and `best`), and deletes those that are no longer needed.

    Args:
        folder: the run's `checkpoints/`.
        arrays: weights and optimizer variables by name.
        state: JSON values to store with them.
        step: global step; the folder is named after it.
        best: also make it `best`.
        keep: never delete it.

    Returns:
        The checkpoint's folder.

    Raises:
        TfpipeError: the disk is full, or another OS error; older checkpoints stay as they were.
    """
    name = f"step-{step:08d}"
    # A run that is stopped right after the end of an epoch writes the same step twice.
    with atomic_folder(folder / name) as temporary:
        # Packed in memory first: if the disk is full, a zip file on disk raises a second error when it is closed.
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        write_bytes(temporary / "state.npz", packed.getvalue())
        write_json(temporary / "state.json", {**state, "sha256": hashlib.sha256(packed.getbuffer()).hexdigest()})
        if keep:
            (temporary / _KEEP).touch()
    if best:
        write_json(folder / f"{BEST}.json", {"checkpoint": name})
    write_json(folder / f"{LATEST}.json", {"checkpoint": name})
    _prune(folder)
    return folder / name


def load(folder: Path, which: str = LATEST) -> Checkpoint | None:
    """Reads a checkpoint.

    Args:
        folder: the run's `checkpoints/`.
        which: `latest`, `best`, or a name such as `step-00000120`.

    Returns:
        The checkpoint; None if there is no `latest` or `best` yet.

    Raises:
        RunError: the checkpoint is missing or damaged.
        UsageError: `which` is neither.
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
    """Returns the name of the `latest` or `best` checkpoint, None if there is none yet.

    Raises:
        UsageError: `which` is another word.
    """
    if which not in (LATEST, BEST):
        raise UsageError(f"checkpoint {which!r} is unknown; use best, latest, or a name such as step-00000120")
    pointer = folder / f"{which}.json"
    return read_json(pointer)["checkpoint"] if pointer.exists() else None


def named(variables: Sequence[Any], prefix: str) -> dict[str, Any]:
    """Returns Keras variables by names that are unique and do not change: prefix, position and Keras path."""
    return {f"{prefix}/{index:03d}/{_unnumbered(variable.name)}": variable for index, variable in enumerate(variables)}


def assign(variables: Sequence[Any], arrays: Mapping[str, Any], *, prefix: str, where: str) -> None:
    """Sets Keras variables from the arrays that `named` gave names with this prefix.

    Args:
        variables: those to set.
        arrays: arrays by name; names with other prefixes are ignored.
        prefix: part of the model, such as `encoder`.
        where: the run folder, for the message.

    Raises:
        RunError: names or shapes are those of another model.
    """
    wanted = named(variables, prefix)
    stored = {_unnumbered(name): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}
    if stored.keys() != wanted.keys():
        raise RunError(f"{where}: the checkpoint's {prefix} is another model's; use the settings it was trained with")
    for name, variable in wanted.items():
        if tuple(variable.shape) != stored[name].shape:
            raise RunError(f"{where}: {name} is {stored[name].shape}, the model needs {tuple(variable.shape)}")
        variable.assign(stored[name])


def digest(saved: Checkpoint) -> str:
    """Returns the SHA-256 over names, shapes and values of a checkpoint's arrays."""
    sha256 = hashlib.sha256()
    for name, array in sorted(saved.arrays.items()):
        sha256.update(f"{name} {array.dtype} {array.shape} ".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def _unnumbered(name: str) -> str:
    """Removes Keras' layer numbers, which differ between the first and the second model of a process."""
    return re.sub(r"_\d+(?=_|$)", "", name)


def _prune(folder: Path) -> None:
    """Deletes checkpoints that are neither pointed to nor kept, and temporary folders of killed writers."""
    keep = {read_json(pointer)["checkpoint"] for pointer in folder.glob("*.json")}
    for path in [*folder.glob("step-*"), *folder.glob(".step-*")]:
        if path.name not in keep and not (path / _KEEP).exists():
            shutil.rmtree(path, ignore_errors=True)
