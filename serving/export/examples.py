"""Inputs for every signature of a model, with which an export is checked and a server warmed up."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol.names import ANY_LABEL, signatures_of
from tfpipe.training.trained_model import TrainedModel

# Samples of the WAV file; it is short because the warm-up requests of every exported model hold it.
_WAV_SAMPLES = 1000


def example_inputs(
    model: TrainedModel, description: dict[str, Any], *, rows: int
) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns inputs for every signature, by signature and input; they are the same in every call.

    Args:
        model: gives the sizes of the inputs.
        description: what the signature `spec` answers; says which signatures the model has.
        rows: rows of each input.
    """
    rng = np.random.default_rng(0)
    audio = rng.uniform(-0.5, 0.5, (rows, model.spec.samples)).astype(np.float32)
    shared: dict[str, NDArray[Any]] = {
        "mel": rng.uniform(size=(rows, *model.spec.mel_shape)).astype(np.float32),
        "z": rng.standard_normal((rows, model.latent)).astype(np.float32),
        "audio": audio,
        "wav_bytes": np.array([_wav(row[:_WAV_SAMPLES], model.spec.sample_rate) for row in audio], object),
        "ref_db": np.zeros(rows, np.float32),
        "seed": np.arange(rows, dtype=np.int64),
        "temperature": np.ones(rows, np.float32),
        "label": np.full(rows, ANY_LABEL, np.int32),
        "amount": np.full(rows, 0.5, np.float32),
        "index": np.zeros(rows, np.int32),
    }
    return {
        name: {alias: shared[alias] for alias in names.inputs} for name, names in signatures_of(description).items()
    }


def _wav(audio: NDArray[np.float32], sample_rate: int) -> bytes:
    """Returns a mono WAV file of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(np.rint(audio * 32_767).astype("<i2").tobytes())
    return file.getvalue()
