"""The latents file: what an encoder says about windows of recordings, as .npz. Does not load TensorFlow.

`tfpipe score --latents` and `tfpipe client encode` write it, and `tfpipe client
decode` reads it. docs/FORMATS.md describes it for readers in other languages.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.errors import UsageError, translate_os_errors
from tfpipe.files.storage import atomic_write

# What identifies a model, in the order in which a difference is reported.
_IDENTITY = ("fingerprint", "preset", "dataset", "epoch", "step")


@dataclass(frozen=True, kw_only=True)
class Latents:
    """The latents of n windows, each with d dimensions.

    A file holds each attribute that is not None as an array of that name. Files
    from elsewhere may have only `z_mean` and `ref_db`.

    Attributes:
        z_mean: `[n, d]`, mean of the posterior.
        ref_db: `[n]`, level of each window's maximum, in dB.
        z_log_var: `[n, d]`, log of the posterior's variance.
        start_s: `[n]`, start of each window in its recording, in s.
        path: the recordings: `[tracks]` text if there is `track`, else `[n]`, the recording of each window.
        track: `[n]`, index of each window's recording in `path` and `label`.
        label: `[tracks]` text.
        mse: `[n]`, mean squared error of the reconstruction from `z_mean`.
        kl: `[n]`, KL divergence from the prior, in nats.
        fingerprint: fingerprint of the model's feature spec; empty if it is unknown.
        checkpoint: the weights that made the latents, such as `{"preset": "tiny", "epoch": 3, "step": 120}`.
    """

    z_mean: NDArray[Any]
    ref_db: NDArray[Any]
    z_log_var: NDArray[Any] | None = None
    start_s: NDArray[Any] | None = None
    path: NDArray[np.str_] | None = None
    track: NDArray[Any] | None = None
    label: NDArray[np.str_] | None = None
    mse: NDArray[Any] | None = None
    kl: NDArray[Any] | None = None
    fingerprint: str = ""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, *, fingerprint: str, checkpoint: Mapping[str, Any]) -> list[str]:
        """Compares the model that made these latents with another one.

        Args:
            fingerprint: the other model's spec fingerprint.
            checkpoint: the other model's `preset`, `dataset`, `epoch` and `step`, as far as they are known.

        Returns:
            Each fact that both sides know and that differs, such as `step 120 in the file, 240 in the model`.
        """
        ours = {"fingerprint": self.fingerprint, **self.checkpoint}
        theirs = {"fingerprint": fingerprint, **checkpoint}
        return [
            f"{name} {ours[name]} in the file, {theirs[name]} in the model"
            for name in _IDENTITY
            if name in theirs and ours.get(name, "") != "" and ours[name] != theirs[name]
        ]


_ARRAYS = tuple(f.name for f in dataclasses.fields(Latents) if f.name not in ("fingerprint", "checkpoint"))


def write_latents(path: str | os.PathLike[str], latents: Latents) -> None:
    """Writes a latents file; a reader sees all of it or none.

    Raises:
        TfpipeError: the file cannot be written.
    """
    arrays = {name: getattr(latents, name) for name in _ARRAYS if getattr(latents, name) is not None}
    identity = {
        "fingerprint": np.array(latents.fingerprint),
        "checkpoint": np.array(json.dumps(dict(latents.checkpoint))),
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays, **identity)


def read_latents(path: str | os.PathLike[str]) -> Latents:
    """Reads a latents file.

    Raises:
        TfpipeError: the file is missing or cannot be read.
        UsageError: it is not a latents file, or its latents are empty or not finite.
    """
    try:
        with translate_os_errors(path), np.load(path) as file:
            arrays = {name: file[name] for name in _ARRAYS if name in file.files}
            latents = Latents(
                z_mean=arrays.pop("z_mean"),
                ref_db=arrays.pop("ref_db"),
                **arrays,
                fingerprint=str(file["fingerprint"]) if "fingerprint" in file.files else "",
                checkpoint=json.loads(str(file["checkpoint"])) if "checkpoint" in file.files else {},
            )
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{os.fspath(path)}: is not a latents file with z_mean and ref_db ({error}); "
            "use one of `tfpipe client encode` or `tfpipe score --latents`"
        ) from error
    if not len(latents.z_mean) or not (np.isfinite(latents.z_mean).all() and np.isfinite(latents.ref_db).all()):
        raise UsageError(f"{os.fspath(path)}: holds no latents, or NaN or Inf; encode the recordings again")
    return latents
