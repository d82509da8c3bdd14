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


def seeded_normal(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Draws `[n, count]` standard normal float32 values; row i depends on `seed[i]` alone.

    The generator is counter-based: splitmix64 (Steele, Lea and Flood, 2014) maps each pair of seed and position to 64
    bits, and the inverse normal distribution maps the 53 high bits to a value. Every operation is elementwise, so a
    row's values are the same in any batch.

    Args:
        seed: `[n]` int64.
        count: values in each row.
    """
    positions = tf.cast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64)
    state = _splitmix64(tf.bitcast(seed, tf.uint64))[:, tf.newaxis] + positions * _uint64(0x9E3779B97F4A7C15)
    bits = tf.bitwise.right_shift(_splitmix64(state), _uint64(11))
    uniform = (tf.cast(bits, tf.float64) + 0.5) * 2.0**-53
    return tf.cast(tf.math.ndtri(uniform), tf.float32)


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


def _splitmix64(value: tf.Tensor) -> tf.Tensor:
    value += _uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _uint64(shift))) * _uint64(factor)
    return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _uint64(31)))


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def _one_window(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Pads or cuts `[n, any]` to `[n, spec.samples]`."""
    audio = audio[:, : spec.samples]
    audio = tf.pad(audio, [[0, 0], [0, spec.samples - tf.shape(audio)[1]]])
    return tf.ensure_shape(audio, [None, spec.samples])
