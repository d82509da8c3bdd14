"""Keeps the latent dimensions of a trained model that carry most information (needs TensorFlow).

The information of a dimension is its KL divergence from the prior, averaged over training windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from tfpipe.data.damage import translate_input_errors
from tfpipe.data.manifest import Folder, load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import dequantise
from tfpipe.model import measure
from tfpipe.spec import require_same_spec
from tfpipe.training.trained_model import TrainedModel

_BATCH, _BATCHES = 32, 64


def informative(model: TrainedModel, data: Folder) -> list[int]:
    """Returns the numbers of the latent dimensions, sorted by the information that they carry, largest first.

    Args:
        model: the trained model.
        data: the dataset that the model was trained on; up to 2 048 of its training windows are read.

    Raises:
        SpecMismatch: the dataset has another spec than the model.
        UsageError: the model was trained on another dataset.
    """
    manifest = load_manifest(data)
    require_same_spec(model.spec, manifest.spec, expected_from="the run", actual_from=str(data))
    trained_on = model.metadata.get("dataset", manifest.fingerprint)
    if trained_on != manifest.fingerprint:
        raise UsageError(
            f"{data}: the run was trained on another dataset, with fingerprint {trained_on}; give that one"
        )
    kl = np.zeros(model.latent)
    with translate_input_errors(data, manifest, split="train"):
        batches = make_dataset(data, split="train", batch_size=_BATCH, seed=0, manifest=manifest).take(_BATCHES)
        for batch in batches.as_numpy_iterator():
            kl += measure.kl(*model.encoder(dequantise(batch["mel"]), training=False)).sum(axis=0)
    return [int(dimension) for dimension in np.argsort(-kl, kind="stable")]


def with_dimensions(model: TrainedModel, kept: Sequence[int]) -> TrainedModel:
    """Returns a model whose latent has the dimensions `kept` alone, in that order; it shares the weights of `model`.

    The decoder gets 0, the mean of the prior, for the dimensions that are left out.
    """
    select = np.eye(model.latent, dtype=np.float32)[:, list(kept)]  # [latent, kept]
    mel = keras.Input(model.encoder.input_shape[1:], name="mel")
    encoder = keras.Model(mel, [keras.ops.matmul(z, select) for z in model.encoder(mel)], name="encoder")
    z = keras.Input((len(kept),), name="z")
    decoder = keras.Model(z, model.decoder(keras.ops.matmul(z, select.T)), name="decoder")
    return dataclasses.replace(
        model,
        latent=len(kept),
        latent_shape=(1, len(kept)),
        encoder=encoder,
        decoder=decoder,
        metadata={**model.metadata, "latent": len(kept), "latent_kept": list(kept)},
    )
