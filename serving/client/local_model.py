"""Runs an exported model in this process, without a server (loads TensorFlow when a model is opened)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.client.connection import RequestRefusedError, SignatureNotFoundError
from serving.client.vae import Vae
from serving.protocol.names import is_version
from serving.protocol.status import from_runtime
from tfpipe.errors import ServingError

_SAVED_MODEL = "saved_model.pb"


class LocalModel(Vae):
    """An exported model that this process runs. Threads may share it.

    Args:
        path: a folder of versions such as `models/vae`, of which the newest is taken, or one version such as
            `models/vae/2`.

    Raises:
        ServingError: there is no model in the folder, or it cannot be loaded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = _version(Path(path))
        super().__init__(str(folder))
        import tensorflow as tf

        try:
            self._loaded: Any = tf.saved_model.load(str(folder))
        except (tf.errors.OpError, OSError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ServingError(f"{folder}: the model cannot be loaded ({why}); export it again") from error

    def close(self) -> None:
        """Forgets the model, so that its memory can be freed."""
        self._loaded = None

    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import tensorflow as tf

        if signature not in self._loaded.signatures:
            known = ", ".join(sorted(self._loaded.signatures))
            raise SignatureNotFoundError(
                f"{self.target}: the model has no signature {signature!r}; it has {known or 'none'}"
            )
        try:
            outputs = self._loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            is_runtime = isinstance(error, tf.errors.OpError)
            why = from_runtime(error).message if is_runtime else str(error).splitlines()[0]
            raise RequestRefusedError(f"{self.target}: {signature}: {why}") from error
        return {name: np.asarray(value.numpy()) for name, value in outputs.items()}


def _version(path: Path) -> Path:
    """Returns the folder of the version to load."""
    if (path / _SAVED_MODEL).is_file():
        return path
    versions = [child for child in path.glob("*") if is_version(child.name) and (child / _SAVED_MODEL).is_file()]
    if not versions:
        raise ServingError(
            f"{path}: no exported model here (no version with a {_SAVED_MODEL}); "
            f"make one with `tfpipe export --run RUN --output {path}`"
        )
    return max(versions, key=lambda child: int(child.name))
