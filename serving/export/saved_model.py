"""From a trained run to a versioned SavedModel that TensorFlow Serving loads as it is (needs TensorFlow).

The graph holds the whole way, audio to latent and latent to audio, in stock
TensorFlow ops with float32 at the boundary. A version folder appears whole and
checked, or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.export.latent_pruning import informative, with_dimensions
from serving.export.tflite import write_tflite
from serving.protocol import protos, tensors
from serving.protocol.names import DEFAULT_SIGNATURE, WARMUP_FILE
from tfpipe.data.manifest import Folder
from tfpipe.data.records import write_record
from tfpipe.errors import ServingError, UsageError, translate_os_errors
from tfpipe.features.log_mel_tf import griffin_lim, log_mel
from tfpipe.files.storage import LOCK, folder_lock, is_locked, write_bytes, write_json
from tfpipe.process import children
from tfpipe.spec import FeatureSpec
from tfpipe.training.trained_model import TrainedModel, load_models

# Largest difference allowed between the model in memory and the model read back.
TOLERANCE = 1e-4
_CHECK_ROWS = 2
# An export that has just begun, or is just ending, holds no lock.
_LEFTOVER_AGE_S = 60.0
# Rows of a full batch in the warm-up requests; windows of audio out take about 0.1 s each.
_FULL_ROWS, _FULL_AUDIO_ROWS = 32, 4


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export made.

    Attributes:
        path: the version's folder.
        version: its number.
        signatures: names of the signatures.
        difference: largest difference found when the model was read back.
    """

    path: Path
    version: int
    signatures: tuple[str, ...]
    difference: float


def export(
    *,
    run: Path,
    output: Path,
    which: str = "best",
    model_name: str = "vae",
    keep: int | None = None,
    data: Folder | None = None,
    tflite: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> Exported:
    """Exports a run as the next version in `output`.

    Args:
        run: run folder of `tfpipe train`.
        output: model folder: what `--model_base_path` takes.
        which: checkpoint: `best`, `latest` or one's own name such as `step-00000120`.
        model_name: name in the warm-up requests and the model card.
        keep: latent dimensions of the exported model, those that carry most; all when None.
        data: the run's dataset, which says how much each dimension carries; needed with `keep`.
        tflite: also write encoder and decoder for TensorFlow Lite.
        say: told what is being done, a line for each step that takes seconds.

    Raises:
        RunError: the run has no such checkpoint.
        ServingError: the written model does not agree with the run.
        UsageError: `keep` without `data`, or out of range.
    """
    model = load_models(run, which=which)
    if keep is not None:
        if data is None or not 1 <= keep <= model.latent:
            raise UsageError(
                f"keeping {keep} of {model.latent} latent dimensions: give 1 to all, and the run's dataset (--data)"
            )
        say(f"measuring what each of {model.latent} latent dimensions carries ...")
        model = with_dimensions(model, informative(model, data)[:keep])
    return export_model(model, output, model_name=model_name, tflite=tflite, say=say)


def export_model(
    model: TrainedModel,
    output: Path,
    *,
    model_name: str = "vae",
    tflite: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> Exported:
    """Exports a trained model as the next version in `output`; see `export`.

    Raises:
        ServingError: the model is not float32, or what was written does not agree with it.
    """
    _require_float32(model)
    with ExitStack() as stack:
        with translate_os_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            _sweep(output)
            temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=output))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        stack.enter_context(translate_os_errors(output))
        # Held while this process lives: what a killed one leaves can be told from work.
        stack.enter_context(folder_lock(temporary, what="tfpipe export"))
        say("writing the SavedModel ...")
        functions = build_signatures(model)
        _save(model, functions, temporary)
        _write_extras(model, temporary, model_name=model_name)
        if tflite:
            say("converting to TensorFlow Lite ...")
            write_tflite(model, functions, temporary / "assets.extra")
        say("reading it back in a process that knows TensorFlow alone ...")
        difference = _check_in_child(functions, _examples(model, rows=_CHECK_ROWS), temporary)
        (temporary / LOCK).unlink()
        version = _publish(temporary, output)
    return Exported(
        path=output / str(version), version=version, signatures=tuple(sorted(functions)), difference=difference
    )


def build_signatures(model: TrainedModel) -> dict[str, Any]:
    """Returns the signatures as tf.functions by name: audio and mel to latent, and back."""
    spec, latent = model.spec, model.latent
    mel_input = tf.TensorSpec([None, *spec.mel_shape], tf.float32, name="mel")
    z_input = tf.TensorSpec([None, latent], tf.float32, name="z")
    description = json.dumps(describe(model), sort_keys=True)

    def to_latent(mel: tf.Tensor) -> dict[str, tf.Tensor]:
        z_mean, z_log_var = model.encoder(mel[..., tf.newaxis], training=False)
        return {"z_mean": z_mean, "z_log_var": z_log_var}

    def to_mel(z: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(model.decoder(z, training=False)[..., 0], [None, *spec.mel_shape])

    @tf.function(input_signature=[mel_input])
    def encode(mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return to_latent(mel)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="audio")])
    def encode_audio(audio: tf.Tensor) -> dict[str, tf.Tensor]:
        mel, ref_db = log_mel(_one_window(audio, spec), spec)
        mel = tf.ensure_shape(mel, [None, *spec.mel_shape])
        return {**to_latent(mel), "mel": mel, "ref_db": ref_db}

    @tf.function(input_signature=[z_input])
    def decode(z: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mel": to_mel(z)}

    @tf.function(input_signature=[z_input, tf.TensorSpec([None], tf.float32, name="ref_db")])
    def decode_audio(z: tf.Tensor, ref_db: tf.Tensor) -> dict[str, tf.Tensor]:
        audio = griffin_lim(to_mel(z), ref_db, spec)
        return {"audio": tf.ensure_shape(audio, [None, spec.samples])}

    @tf.function(input_signature=[mel_input])
    def reconstruct(mel: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mel": to_mel(to_latent(mel)["z_mean"])}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="seed"),
            tf.TensorSpec([None], tf.float32, name="temperature"),
        ]
    )
    def generate(seed: tf.Tensor, temperature: tf.Tensor) -> dict[str, tf.Tensor]:
        z = seeded_normal(seed, latent) * temperature[:, tf.newaxis]
        return {"z": z, "mel": to_mel(z)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="index")])
    def spec_json(index: tf.Tensor) -> dict[str, tf.Tensor]:
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


def describe(model: TrainedModel) -> dict[str, Any]:
    """Returns what the `spec` signature tells a client, as JSON values."""
    return {
        "spec": model.spec.to_dict(),
        "fingerprint": model.spec.fingerprint,
        "labels": list(model.labels),
        "latent": model.latent,
        "metadata": model.metadata,
    }


def seeded_normal(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Draws `[n, count]` standard normal values; row i is a function of `seed[i]` alone.

    A counter-based generator: each (seed, position) goes through splitmix64
    (Steele, Lea and Flood, 2014), and its 53 high bits through the inverse
    normal distribution. Elementwise, so a batch computes what single rows do.

    Args:
        seed: `[n]` int64.
        count: values in a row.
    """
    positions = tf.cast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64)
    state = _splitmix64(tf.bitcast(seed, tf.uint64))[:, tf.newaxis] + positions * _uint64(0x9E3779B97F4A7C15)
    bits = tf.bitwise.right_shift(_splitmix64(state), _uint64(11))
    uniform = (tf.cast(bits, tf.float64) + 0.5) * 2.0**-53
    return tf.cast(tf.math.ndtri(uniform), tf.float32)


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


def _require_float32(model: TrainedModel) -> None:
    """Refuses a model built under a mixed policy: it would run many times slower on CPU servers."""
    layers = [*model.encoder.layers, *model.decoder.layers]
    wrong = sorted({layer.compute_dtype for layer in layers} - {"float32"})
    if wrong:
        raise ServingError(f"the model computes in {', '.join(wrong)}; build it under float32 and copy the weights")


def _save(model: TrainedModel, functions: dict[str, Any], path: Path) -> None:
    """Writes the SavedModel: variables and signatures, nothing of Keras."""
    module = tf.Module(name="tfpipe")
    module.parameters = [variable.value for variable in (*model.encoder.variables, *model.decoder.variables)]
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    try:
        tf.saved_model.save(module, str(path), signatures=signatures)
    except tf.errors.OpError as error:
        raise ServingError(f"{path.parent}: the model cannot be written ({str(error).splitlines()[0]})") from error


def _examples(model: TrainedModel, *, rows: int) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns inputs for every signature, always the same ones."""
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


def _full_batches(model: TrainedModel) -> dict[str, dict[str, NDArray[Any]]]:
    """Inputs of `_examples` in full batches; audio is short, as the graph pads it."""
    full = _examples(model, rows=_FULL_ROWS)
    full["encode_audio"] = {"audio": full["encode_audio"]["audio"][:, :100]}
    full["decode_audio"] = {alias: array[:_FULL_AUDIO_ROWS] for alias, array in full["decode_audio"].items()}
    return full


def _write_extras(model: TrainedModel, path: Path, *, model_name: str) -> None:
    """Writes `assets.extra`: warm-up requests, feature spec, model description, model card."""
    warmup = io.BytesIO()
    requests = [*_examples(model, rows=1).items(), *_full_batches(model).items()]
    for signature, inputs in requests:
        log = protos.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = model_name
        request.model_spec.signature_name = signature
        for alias, array in inputs.items():
            request.inputs[alias].CopyFrom(tensors.to_proto(array))
        write_record(warmup, log.SerializeToString())
    write_bytes(path / WARMUP_FILE, warmup.getvalue())
    extra = (path / WARMUP_FILE).parent
    write_json(extra / "spec.json", model.spec.to_dict())
    write_json(extra / "model.json", describe(model))
    write_bytes(extra / "MODEL_CARD.md", _model_card(model, model_name).encode())


def _model_card(model: TrainedModel, name: str) -> str:
    spec = model.spec
    facts = "\n".join(f"| {key} | `{json.dumps(value, ensure_ascii=False)}` |" for key, value in model.metadata.items())
    return f"""# {name}

A convolutional variational autoencoder of log-mel spectrograms, trained with tfpipe.

- Input: windows of {spec.window_s:g} s of mono audio at {spec.sample_rate} Hz,
  or their log-mel `{list(spec.mel_shape)}` in [0, 1].
- Latent: {model.latent} dimensions with a standard normal prior.
- Trained on tracks labelled: {", ".join(model.labels) or "nothing"}. Labels are not an input of the model.
- Feature spec fingerprint: `{spec.fingerprint}` (all values in `spec.json`).
- Audio out is rebuilt from the spectrogram by Griffin-Lim: phases are estimated, not the recording's.

| training | value |
| --- | --- |
{facts}
"""


def _check_in_child(functions: dict[str, Callable[..., Any]], inputs: dict[str, Any], path: Path) -> float:
    """Reads the model back in a process that knows TensorFlow only; returns the largest difference.

    Raises:
        ServingError: it does not load there or does not agree.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with tf.device("/CPU:0"):
        for name, feeds in inputs.items():
            outputs = functions[name](**{alias: tf.constant(array) for alias, array in feeds.items()})
            arrays |= {f"{name}/in/{alias}": array for alias, array in feeds.items()}
            arrays |= {f"{name}/out/{alias}": _plain(tensor.numpy()) for alias, tensor in outputs.items()}
    with tempfile.TemporaryDirectory(prefix="tfpipe-check-") as folder:
        reference = Path(folder) / "reference.npz"
        np.savez(reference, **arrays)
        script = Path(__file__).with_name("read_back.py")
        child = subprocess.run(
            children.python(["-P", str(script), str(path), str(reference)]),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServingError(f"{path.parent}: the written model cannot be read back ({last}); nothing was exported")
    difference, where = json.loads(child.stdout.strip().splitlines()[-1])
    if not difference <= TOLERANCE:
        raise ServingError(
            f"{path.parent}: the written model differs from the trained one by {difference:.2g} in {where} "
            f"(allowed {TOLERANCE:g}); nothing was exported"
        )
    return float(difference)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array that np.savez writes without pickling."""
    return array.astype(np.bytes_) if array.dtype.kind == "O" else array


def _sweep(output: Path) -> None:
    """Removes what exports that were killed left behind: nobody holds its lock any more."""
    for leftover in output.glob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):  # published or removed at this moment
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S and not is_locked(leftover):
                shutil.rmtree(leftover, ignore_errors=True)


def _publish(temporary: Path, output: Path) -> int:
    """Gives the finished folder the next free version number, also when another export does so at this moment."""
    temporary.chmod(0o755)
    while True:
        taken = [int(p.name) for p in output.iterdir() if p.name.isascii() and p.name.isdigit()]
        version = max(taken, default=0) + 1
        try:
            # Renaming onto a version that another export has just published fails: it is not empty.
            os.rename(temporary, output / str(version))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return version
