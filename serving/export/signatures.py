"""The signatures of an exported model: the whole way from audio to latent and back, as graphs (needs TensorFlow).

The graphs use TensorFlow's own ops alone. Inputs and outputs are float32, but for seeds, labels and WAV files.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from serving.export.wav_graph import decode_wavs, encode_wavs
from serving.protocol.names import DEFAULT_SIGNATURE, signatures_of
from tfpipe.features.inversion_tf import invert_log_mel
from tfpipe.features.log_mel_tf import log_mel
from tfpipe.model.noise import seeded_normal
from tfpipe.spec import FeatureSpec
from tfpipe.training.trained_model import TrainedModel

Tensors = dict[str, tf.Tensor]


def build_signatures(model: TrainedModel) -> dict[str, Any]:
    """Returns the signatures of a model (`names.signatures_of`), by name, as tf.functions for batches of any size."""
    description = describe(model)
    types, graphs = _inputs(model), _Graphs(model, json.dumps(description, sort_keys=True))
    bodies: dict[str, Callable[..., Tensors]] = {
        "encode": graphs.encode,
        "encode_audio": graphs.encode_audio,
        "decode": graphs.decode,
        "decode_audio": graphs.decode_audio,
        "decode_wav": graphs.decode_wav,
        "reconstruct": graphs.reconstruct,
        "reconstruct_wav": graphs.reconstruct_wav,
        "generate": graphs.generate,
        "generate_wav": graphs.generate_wav,
        "spec": graphs.spec,
    }
    if model.prior is None:
        bodies["generate"] = lambda seed, temperature: graphs.generate(seed, temperature)
        bodies["generate_wav"] = lambda seed, temperature, ref_db: graphs.generate_wav(seed, temperature, None, ref_db)
    else:
        bodies |= {"continue": graphs.continue_, "vary": graphs.vary}
    signatures = {
        name: tf.function(bodies[name], input_signature=[types[alias] for alias in names.inputs], autograph=False)
        for name, names in signatures_of(description).items()
        if name != DEFAULT_SIGNATURE
    }
    return {**signatures, DEFAULT_SIGNATURE: signatures["reconstruct"]}


def describe(model: TrainedModel) -> dict[str, Any]:
    """Returns the JSON that the signature `spec` answers."""
    return {
        "spec": model.spec.to_dict(),
        "fingerprint": model.spec.fingerprint,
        "labels": list(model.labels),
        "latent": model.latent,
        "latent_shape": list(model.latent_shape),
        "prior": None if model.prior is None else {"kind": "flow", "kept": model.prior.kept},
        "metadata": model.metadata,
    }


def variables_of(model: TrainedModel) -> list[Any]:
    """Returns the variables that the signatures use; a SavedModel must hold them."""
    networks = [model.encoder, model.decoder]
    if model.prior is not None:
        networks.append(model.prior.network)
    if model.vocoder is not None:
        networks.append(model.vocoder)
    return [variable.value for network in networks for variable in network.variables]


def _inputs(model: TrainedModel) -> dict[str, tf.TensorSpec]:
    """Returns the type of every input; the first dimension is the batch."""
    types: dict[str, tuple[list[int | None], tf.DType]] = {
        "mel": ([*model.spec.mel_shape], tf.float32),
        "audio": ([None], tf.float32),
        "wav_bytes": ([], tf.string),
        "z": ([model.latent], tf.float32),
        "ref_db": ([], tf.float32),
        "seed": ([], tf.int64),
        "temperature": ([], tf.float32),
        "label": ([], tf.int32),
        "amount": ([], tf.float32),
        "index": ([], tf.int32),
    }
    return {alias: tf.TensorSpec([None, *shape], dtype, name=alias) for alias, (shape, dtype) in types.items()}


class _Graphs:
    """The bodies of the signatures; the names of their arguments are the names of the inputs.

    Steps that several signatures share are functions of their own, which are traced and stored once. With a prior,
    this takes less than half of the processor time, and the file of the graph has a third of the size.
    """

    def __init__(self, model: TrainedModel, description: str) -> None:
        self._model, self._spec, self._description = model, model.spec, description
        self._prior: Any = model.prior  # the signatures that use it exist only if there is one
        mel = tf.TensorSpec([None, *self._spec.mel_shape])
        audio = tf.TensorSpec([None, self._spec.samples])
        z, ref_db = tf.TensorSpec([None, model.latent]), tf.TensorSpec([None])
        self._encoded = _once(_never_empty(lambda mel: model.encoder(mel[..., tf.newaxis], training=False)), mel)
        self._decoded = _once(_never_empty(lambda z: model.decoder(z, training=False)[..., 0]), z)
        self._log_mel = _once(lambda audio: log_mel(audio, model.spec), audio)
        invert = functools.partial(invert_log_mel, spec=model.spec, correct=model.correct)
        self._inverted = _once(invert, mel, ref_db)

    def encode(self, mel: tf.Tensor) -> Tensors:
        z_mean, z_log_var = self._encoded(mel)
        return {"z_mean": z_mean, "z_log_var": z_log_var}

    def encode_audio(self, audio: tf.Tensor) -> Tensors:
        mel, ref_db = self._log_mel(_one_window(audio, self._spec))
        mel = tf.ensure_shape(mel, [None, *self._spec.mel_shape])
        return {**self.encode(mel), "mel": mel, "ref_db": ref_db}

    def decode(self, z: tf.Tensor) -> Tensors:
        return {"mel": tf.ensure_shape(self._decoded(z), [None, *self._spec.mel_shape])}

    def decode_audio(self, z: tf.Tensor, ref_db: tf.Tensor) -> Tensors:
        audio = self._inverted(self.decode(z)["mel"], ref_db)
        return {"audio": tf.ensure_shape(audio, [None, self._spec.samples])}

    def decode_wav(self, z: tf.Tensor, ref_db: tf.Tensor) -> Tensors:
        return {"wav_bytes": encode_wavs(self.decode_audio(z, ref_db)["audio"], self._spec)}

    def reconstruct(self, mel: tf.Tensor) -> Tensors:
        return self.decode(self.encode(mel)["z_mean"])

    def reconstruct_wav(self, wav_bytes: tf.Tensor) -> Tensors:
        audio, count = decode_wavs(wav_bytes, self._spec)
        encoded = self.encode_audio(audio)
        rebuilt = self.decode_audio(encoded["z_mean"], encoded["ref_db"])["audio"]
        return {"wav_bytes": encode_wavs(rebuilt, self._spec, count)}

    def generate(self, seed: tf.Tensor, temperature: tf.Tensor, label: tf.Tensor | None = None) -> Tensors:
        z = self._noise(seed) * temperature[:, tf.newaxis]
        if label is not None:
            z = _never_empty(self._prior.draw)(z, label)
        return self._drawn(z)

    def generate_wav(
        self, seed: tf.Tensor, temperature: tf.Tensor, label: tf.Tensor | None, ref_db: tf.Tensor
    ) -> Tensors:
        return self.decode_wav(self.generate(seed, temperature, label)["z"], ref_db)

    def continue_(self, z: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor, label: tf.Tensor) -> Tensors:
        noise = self._noise(seed) * temperature[:, tf.newaxis]
        return self._drawn(_never_empty(self._prior.continue_)(z, noise, label))

    def vary(self, z: tf.Tensor, amount: tf.Tensor, seed: tf.Tensor, label: tf.Tensor) -> Tensors:
        return self._drawn(_never_empty(self._prior.vary)(z, self._noise(seed), amount, label))

    def spec(self, index: tf.Tensor) -> Tensors:
        return {"json": tf.fill(tf.shape(index), tf.constant(self._description))}

    def _noise(self, seed: tf.Tensor) -> tf.Tensor:
        return seeded_normal(seed, self._model.latent)

    def _drawn(self, z: tf.Tensor) -> Tensors:
        z = tf.ensure_shape(z, [None, self._model.latent])
        return {"z": z, **self.decode(z)}


def _once(body: Callable[..., Any], *types: tf.TensorSpec) -> Any:
    """Returns `body` as a tf.function for arguments of these types. It is traced once, even if many graphs call it."""
    return tf.function(body, input_signature=types, autograph=False)


def _never_empty(body: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `body`, but replaces an empty batch by one row of zeros and drops the result's row.

    TensorFlow uses oneDNN on newer CPUs. There a depthwise convolution gives an empty batch a wrong shape.

    Args:
        body: a function of batches that returns batches with as many rows.
    """

    def guarded(*batches: tf.Tensor) -> Any:
        count = tf.shape(batches[0])[0]
        filled = []
        for batch in batches:
            padded = tf.pad(batch, [[0, tf.maximum(0, 1 - count)], *[[0, 0]] * (len(batch.shape) - 1)])
            # This refuses rows of a wrong size. If the number of rows were -1, such rows would become more rows.
            filled.append(tf.reshape(padded, [tf.maximum(1, count), *batch.shape[1:]]))
        return tf.nest.map_structure(lambda output: output[:count], body(*filled))

    return guarded


def _one_window(audio: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Pads or cuts `[n, any]` to `[n, spec.samples]`."""
    audio = audio[:, : spec.samples]
    audio = tf.pad(audio, [[0, 0], [0, spec.samples - tf.shape(audio)[1]]])
    return tf.ensure_shape(audio, [None, spec.samples])
