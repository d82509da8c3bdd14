"""The signatures of an exported model: the whole way from audio to latent and back, as graphs (needs TensorFlow).

The graphs use TensorFlow's own ops alone. Inputs and outputs are float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.protocol.names import DEFAULT_SIGNATURE
from tfpipe.features.inversion_tf import invert_log_mel
from tfpipe.features.log_mel_tf import log_mel
from tfpipe.model.noise import seeded_normal
from tfpipe.spec import FeatureSpec
from tfpipe.training.trained_model import TrainedModel

Tensors = dict[str, tf.Tensor]


def build_signatures(model: TrainedModel) -> dict[str, Any]:
    """Returns the signatures of `names.SIGNATURES`, by name, as tf.functions for batches of any size."""
    spec, latent = model.spec, model.latent
    mel_input = tf.TensorSpec([None, *spec.mel_shape], tf.float32, name="mel")
    z_input = tf.TensorSpec([None, latent], tf.float32, name="z")
    description = json.dumps(describe(model), sort_keys=True)

    def to_latent(mel: tf.Tensor) -> Tensors:
        z_mean, z_log_var = model.encoder(mel[..., tf.newaxis], training=False)
        return {"z_mean": z_mean, "z_log_var": z_log_var}

    def to_mel(z: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(model.decoder(z, training=False)[..., 0], [None, *spec.mel_shape])

    @_graph(mel_input)
    def encode(mel: tf.Tensor) -> Tensors:
        return to_latent(mel)

    @_graph(tf.TensorSpec([None, None], tf.float32, name="audio"))
    def encode_audio(audio: tf.Tensor) -> Tensors:
        mel, ref_db = log_mel(_one_window(audio, spec), spec)
        mel = tf.ensure_shape(mel, [None, *spec.mel_shape])
        return {**to_latent(mel), "mel": mel, "ref_db": ref_db}

    @_graph(z_input)
    def decode(z: tf.Tensor) -> Tensors:
        return {"mel": to_mel(z)}

    @_graph(z_input, tf.TensorSpec([None], tf.float32, name="ref_db"))
    def decode_audio(z: tf.Tensor, ref_db: tf.Tensor) -> Tensors:
        audio = invert_log_mel(to_mel(z), ref_db, spec)
        return {"audio": tf.ensure_shape(audio, [None, spec.samples])}

    @_graph(mel_input)
    def reconstruct(mel: tf.Tensor) -> Tensors:
        return {"mel": to_mel(to_latent(mel)["z_mean"])}

    @_graph(tf.TensorSpec([None], tf.int64, name="seed"), tf.TensorSpec([None], tf.float32, name="temperature"))
    def generate(seed: tf.Tensor, temperature: tf.Tensor) -> Tensors:
        z = seeded_normal(seed, latent) * temperature[:, tf.newaxis]
        return {"z": z, "mel": to_mel(z)}

    @_graph(tf.TensorSpec([None], tf.int32, name="index"))
    def spec_json(index: tf.Tensor) -> Tensors:
        return {"json": tf.fill(tf.shape(index), tf.constant(description))}

    return {
        "encode": encode,
        "encode_audio": encode_audio,
        "decode": decode,
        "decode_audio": decode_audio,
        "reconstruct": reconstruct,
        DEFAULT_SIGNATURE: reconstruct,
        "generate": generate,
        "spec": spec_json,
    }


def _graph(*inputs: tf.TensorSpec) -> Callable[[Callable[..., Tensors]], Callable[..., Tensors]]:
    """Makes a function a tf.function with these inputs."""

    def decorate(function: Callable[..., Tensors]) -> Callable[..., Tensors]:
        graph: Callable[..., Tensors] = tf.function(function, input_signature=inputs)
        return graph

    return decorate


def describe(model: TrainedModel) -> dict[str, Any]:
    """Returns the JSON that the signature `spec` answers."""
    return {
        "spec": model.spec.to_dict(),
        "fingerprint": model.spec.fingerprint,
        "labels": list(model.labels),
        "latent": model.latent,
        "latent_shape": list(model.latent_shape),
        "metadata": model.metadata,
    }


def example_inputs(model: TrainedModel, *, rows: int) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns inputs for every signature, by signature and input; they are the same in every call."""
    rng = np.random.default_rng(0)
    mel = rng.uniform(size=(rows, *model.spec.mel_shape)).astype(np.float32)
    z = rng.standard_normal((rows, model.latent)).astype(np.float32)
    audio = rng.uniform(-0.5, 0.5, (rows, model.spec.samples)).astype(np.float32)
    return {
        "encode": {"mel": mel},
        "encode_audio": {"audio": audio},
        "decode": {"z": z},
        "decode_audio": {"z": z, "ref_db": np.zeros(rows, np.float32)},
        "reconstruct": {"mel": mel},
        DEFAULT_SIGNATURE: {"mel": mel},
        "generate": {"seed": np.arange(rows, dtype=np.int64), "temperature": np.ones(rows, np.float32)},
        "spec": {"index": np.zeros(rows, np.int32)},
    }


def _one_window(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Pads or cuts `[n, any]` to `[n, spec.samples]`."""
    audio = audio[:, : spec.samples]
    audio = tf.pad(audio, [[0, 0], [0, spec.samples - tf.shape(audio)[1]]])
    return tf.ensure_shape(audio, [None, spec.samples])
