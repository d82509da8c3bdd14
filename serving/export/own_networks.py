"""Exports an encoder and a decoder that somebody built and trained with Keras alone.

It is a public function (`tp.export_networks`), so TensorFlow is imported when it is called.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.export.provenance import Provenance
from serving.protocol.names import MODEL_NAME
from tfpipe.data.manifest import Folder, load_manifest
from tfpipe.errors import UsageError
from tfpipe.spec import FeatureSpec
from tfpipe.training.sources import find_sources

if TYPE_CHECKING:
    import keras

    from serving.export.saved_model import Exported


def export_networks(
    encoder: keras.Model,
    decoder: keras.Model,
    output: str | os.PathLike[str],
    *,
    data: Folder,
    model_name: str = MODEL_NAME,
) -> Exported:
    """Writes your own Keras networks as the next version of a model, with the signatures of `tfpipe export`.

    The networks are trained already; how is up to you. Draws (`generate`) decode standard normal latents, so they
    sound like the recordings only if the training has kept the latents near this distribution, as that of a VAE does.

    Example:
        `tp.export_networks(encoder, decoder, "models/own", data="data")`

    Args:
        encoder: mel `[n, n_mels, frames, 1]` in [0, 1] -> two outputs, z_mean and z_log_var, each `[n, d]`.
        decoder: z `[n, d]` -> mel `[n, n_mels, frames, 1]` in [0, 1].
        output: model folder; the version becomes a subfolder named with its number.
        data: the dataset that they were trained on, local or a URL. It gives the features, the labels and the list of
            recordings.
        model_name: name in the warm-up requests and the model card.

    Raises:
        UsageError: a network is no Keras model, or its inputs or outputs have other shapes.
        DatasetError: `data` is no complete dataset.
        ServingError: a network does not compute in float32, or the written model does not agree with the networks.
    """
    from serving.export.saved_model import export_model
    from tfpipe.training.trained_model import TrainedModel

    manifest = load_manifest(data)
    latent = _latent_size(encoder, decoder, manifest.spec)
    model = TrainedModel(
        spec=manifest.spec,
        labels=manifest.labels,
        latent=latent,
        latent_shape=(1, latent),
        encoder=encoder,
        decoder=decoder,
        metadata={
            "networks": "own",
            # Clients compare the preset to tell whether latents are of this model.
            "preset": f"own-{_digest(encoder, decoder)}",
            "latent": latent,
            "dataset": manifest.fingerprint,
        },
    )
    found = Provenance(sources=find_sources(data, manifest))
    return export_model(model, Path(output), model_name=model_name, provenance=found)


def _latent_size(encoder: Any, decoder: Any, spec: FeatureSpec) -> int:
    """Runs both networks on one silent window, and returns the number of latent dimensions.

    Raises:
        UsageError: a network is no Keras model, or the shape of an output is wrong.
    """
    import keras

    for name, network in (("encoder", encoder), ("decoder", decoder)):
        if not isinstance(network, keras.Model):
            raise UsageError(f"{name}={network!r} is no Keras model; give a keras.Model")
    window = (1, *spec.mel_shape, 1)
    outputs = _run("encoder", encoder, window)
    shapes = [_shape(output) for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise UsageError(
            f"encoder: gives {_listed(shapes)} for one window; give it two outputs, z_mean and z_log_var, each [1, d]"
        )
    decoded = _shape(_run("decoder", decoder, shapes[0]))
    if decoded != window:
        raise UsageError(
            f"decoder: gives {_listed([decoded])} for one latent; let it give {list(window)}, the shape of a window "
            "of the dataset"
        )
    return int(shapes[0][1])


def _run(name: str, network: keras.Model, shape: tuple[int, ...]) -> Any:
    """Returns what a network gives for zeros.

    Raises:
        UsageError: it refuses them.
    """
    try:
        return network(np.zeros(shape, np.float32), training=False)
    except Exception as error:  # Keras and TensorFlow raise several kinds for a wrong shape
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(f"{name}: does not take {list(shape)} ({why}); build it for inputs of this shape") from error


def _shape(output: Any) -> tuple[int, ...]:
    """Returns the shape of an output; that of a mapping, which is no tensor, is empty."""
    return tuple(getattr(output, "shape", ()))


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)


def _digest(*networks: keras.Model) -> str:
    """Returns 8 hex digits of all weights."""
    digest = hashlib.sha256()
    for network in networks:
        for weight in network.weights:
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:8]
