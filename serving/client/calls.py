"""The base of an exported model's calls: runs a signature on batches of any size, and describes the model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.client.answers import FloatArray
from serving.client.connection import RequestRefusedError, SignatureNotFoundError
from serving.protocol.names import WAV_SIGNATURES
from tfpipe.spec import FeatureSpec, require_same_spec

# Rows of one call: 32 windows of audio are 14 MB.
MAX_ROWS = 32


class Calls(ABC):
    """Runs the signatures of an exported model.

    Attributes:
        target: where the model is: `HOST:PORT` or a folder.
    """

    def __init__(self, target: str, *, expected_spec: FeatureSpec | None = None) -> None:
        self.target, self._expected = target, expected_spec
        self._description: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the model's description.

        It has `spec`, `fingerprint`, `labels`, `latent`, `latent_shape`, `prior` and `metadata`. Models of earlier
        versions lack `latent_shape` and `prior`.

        Raises:
            SpecMismatch: the model's feature spec is not `expected_spec`.
            ServingError: the request failed; `serving.client.connection` has a class for each reason.
        """
        if self._description is None:
            description = json.loads(self._description_text())
            if self._expected is not None:
                served = FeatureSpec.from_dict(description["spec"])
                require_same_spec(self._expected, served, expected_from="the caller", actual_from=self.target)
            self._description = description
        return self._description

    def spec(self) -> FeatureSpec:
        """Returns the model's feature spec."""
        return FeatureSpec.from_dict(self.describe()["spec"])

    def prior(self) -> dict[str, Any] | None:
        """Returns what `describe` says about the learned prior; None is a standard normal one."""
        return self.describe().get("prior")

    @abstractmethod
    def close(self) -> None:
        """Frees what the model holds; call nothing else afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _description_text(self) -> str | bytes:
        """Returns the JSON of the model's description."""
        text: str | bytes = self._run("spec", {"index": np.zeros(1, np.int32)})["json"][0]
        return text

    @abstractmethod
    def _run(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs a signature on one batch."""

    def call(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Runs a signature on a batch of any size, in requests of at most `MAX_ROWS` rows."""
        if self._expected is not None:
            self.describe()
        sizes = {alias: array.shape[0] if array.ndim else None for alias, array in inputs.items()}
        if None in sizes.values() or len(set(sizes.values())) != 1:
            raise RequestRefusedError(
                f"{signature}: the inputs need the same first dimension, the batch; they have {sizes}"
            )
        rows = next(array.shape[0] for array in inputs.values())
        starts = range(0, max(1, rows), MAX_ROWS)
        try:
            parts = [self._run(signature, {k: v[at : at + MAX_ROWS] for k, v in inputs.items()}) for at in starts]
        except SignatureNotFoundError as error:
            if signature not in WAV_SIGNATURES:
                raise
            raise SignatureNotFoundError(
                f"{self.target}: the model was exported before `{signature}` existed; run `tfpipe export` again"
            ) from error
        return parts[0] if len(parts) == 1 else {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def float32(values: ArrayLike) -> FloatArray:
    """Returns an array of float32."""
    return np.asarray(values, np.float32)
