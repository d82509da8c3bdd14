"""Runs an exported model in this process, without a server (loads TensorFlow when the model is first called)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serving.client.connection import RequestRefusedError, SignatureNotFoundError
from serving.client.vae import Vae
from serving.protocol.names import DESCRIPTION_FILE, is_version
from serving.protocol.status import from_runtime
from tfpipe.errors import ServingError

_SAVED_MODEL = "saved_model.pb"


class LocalModel(Vae):
    """An exported model that this process runs. Threads may share it.

    The model is loaded at its first call. Its description is read from a file, so that a command with a wrong argument
    is refused at once.

    Args:
        path: a folder of versions such as `models/vae`, of which the newest is taken, or one version such as
            `models/vae/2`.
        loading: makes a `with` block around the loading, which takes seconds; for a caller that tells of it.

    Raises:
        ServingError: there is no model in the folder.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, loading: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self._folder = _version(Path(path))
        super().__init__(str(self._folder))
        self._lock = threading.Lock()
        self._loaded: Any = None
        self._loading = loading

    def load(self) -> Self:
        """Loads the model, if it is not loaded yet.

        Raises:
            ServingError: it cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                with self._loading():
                    self._loaded = self._read()
        return self

    def close(self) -> None:
        """Forgets the model, so that its memory can be freed."""
        self._loaded = None

    def _read(self) -> Any:
        import tensorflow as tf

        try:
            return tf.saved_model.load(str(self._folder))
        except (tf.errors.OpError, OSError, ValueError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ServingError(f"{self.target}: the model cannot be loaded ({why}); export it again") from error

    def _description_text(self) -> str | bytes:
        try:
            text = (self._folder / DESCRIPTION_FILE).read_bytes()
            json.loads(text)
        except (OSError, ValueError):  # the file is only a copy of what the model itself says
            return super()._description_text()
        return text

    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.load()
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
