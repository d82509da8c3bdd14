"""Warm-up requests: a server runs them before it serves a version, so that no client waits for a first run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.export.examples import example_inputs
from serving.export.signatures import describe
from serving.protocol import protos, tensors
from serving.protocol.names import WARMUP_FILE, WAV_SIGNATURES
from tfpipe.data.records import write_record
from tfpipe.files.storage import write_bytes
from tfpipe.training.trained_model import TrainedModel

# Rows of a full batch. Making audio takes longer, and a draw through a learned prior calls a network 50 times, so the
# signatures that do so get fewer. Otherwise a server would warm up for half a minute.
_FULL_ROWS, _FULL_AUDIO_ROWS, _FULL_DRAWS = 32, 4, 2
_MAKE_AUDIO = ("decode_audio", *WAV_SIGNATURES)
_DRAW = ("generate", "generate_wav", "continue", "vary")


def write_warmup(model: TrainedModel, path: Path, *, model_name: str) -> None:
    """Writes `WARMUP_FILE` of a version: a TFRecord of PredictionLog messages, one row and a full batch a signature.

    Args:
        model: gives the sizes of the inputs.
        path: folder of the version.
        model_name: name of the model in the requests.
    """
    records = io.BytesIO()
    for signature, inputs in [*example_inputs(model, describe(model), rows=1).items(), *_full_batches(model).items()]:
        log = protos.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = model_name
        request.model_spec.signature_name = signature
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tensors.to_proto(array))
        write_record(records, log.SerializeToString())
    write_bytes(path / WARMUP_FILE, records.getvalue())


def _full_batches(model: TrainedModel) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns inputs of a full batch. Audio is cut to 100 samples to keep the file small: the graph pads it."""
    full = example_inputs(model, describe(model), rows=_FULL_ROWS)
    full["encode_audio"] = {"audio": full["encode_audio"]["audio"][:, :100]}
    rows = dict.fromkeys(_MAKE_AUDIO, _FULL_AUDIO_ROWS)
    if model.prior is not None:
        rows |= dict.fromkeys(_DRAW, _FULL_DRAWS)
    for name, count in rows.items():
        full[name] = {alias: array[:count] for alias, array in full[name].items()}
    return full
