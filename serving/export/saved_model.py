"""Writes a trained run as a version of a SavedModel that TensorFlow Serving loads unchanged (needs TensorFlow).

A version is written into a temporary folder, read back and compared with the trained model, and then renamed: so a
version folder is complete and checked whenever it exists.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.export.examples import example_inputs
from serving.export.latent_pruning import informative, with_dimensions
from serving.export.provenance import Provenance, card_sections, read_provenance, training_table
from serving.export.signatures import build_signatures, describe, variables_of
from serving.export.tflite import write_tflite
from serving.export.warmup import write_warmup
from serving.protocol.names import DESCRIPTION_FILE, MODEL_CARD_FILE, MODEL_NAME, SOURCES_FILE, SPEC_FILE, is_version
from tfpipe.data.manifest import Folder
from tfpipe.errors import ServingError, UsageError, os_error_message, translate_os_errors
from tfpipe.files.storage import LOCK, folder_lock, is_locked, write_bytes, write_json
from tfpipe.process import children
from tfpipe.training.trained_model import TrainedModel, load_models

# Largest difference allowed between an output of the model in memory and of the model read back.
TOLERANCE = 1e-4
_CHECK_ROWS = 2
# Younger temporary folders are never removed: an export holds no lock in its first and last moments.
_LEFTOVER_AGE_S = 60.0
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export.

    Attributes:
        path: folder of the new version.
        version: its number.
        signatures: names of its signatures, sorted.
        difference: largest absolute difference of an output when the model was read back.
    """

    path: Path
    version: int
    signatures: tuple[str, ...]
    difference: float


def export(
    *,
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    which: str = "best",
    model_name: str = MODEL_NAME,
    keep: int | None = None,
    data: Folder | None = None,
    tflite: bool = False,
    say: Say = lambda _: None,
) -> Exported:
    """Exports a run as the next version in `output`.

    Args:
        run: run folder of `tfpipe train`.
        output: model folder that holds the versions, as `tfpipe serve --model_base_path` takes it.
        which: checkpoint: `best`, `latest`, or the name of one, such as `step-00000120`.
        model_name: name in the warm-up requests and the model card.
        keep: number of latent dimensions to keep: the ones that carry most information. None keeps all.
        data: dataset that the run was trained on, to measure the information of each dimension; needed with `keep`.
        tflite: also write encoder and decoder for TensorFlow Lite.
        say: is called with a line of text before each step that takes seconds.

    Raises:
        RunError: the run has no such checkpoint.
        ServingError: the written model does not agree with the run.
        UsageError: `keep` is given without `data`, or is out of range.
    """
    say("loading the run ...")
    model = load_models(Path(run), which=which)
    if keep is not None:
        if model.latent_shape[0] > 1:
            steps, channels = model.latent_shape
            raise UsageError(
                f"--latent-keep {keep}: the latent is a sequence of {steps} steps, which would lose their order; "
                f"train with fewer channels instead, such as --latent {steps}x{max(1, channels // 2)}"
            )
        if data is None or not 1 <= keep <= model.latent:
            raise UsageError(
                f"--latent-keep {keep} needs a number from 1 to {model.latent}, and the run's dataset (--data)"
            )
        say(f"measuring the information in each of {model.latent} latent dimensions ...")
        model = with_dimensions(model, informative(model, data)[:keep])
    found = read_provenance(Path(run), step=model.metadata["step"])
    return export_model(model, Path(output), model_name=model_name, provenance=found, tflite=tflite, say=say)


def export_model(
    model: TrainedModel,
    output: Path,
    *,
    model_name: str = MODEL_NAME,
    provenance: Provenance | None = None,
    tflite: bool = False,
    say: Say = lambda _: None,
) -> Exported:
    """Exports a trained model as the next version in `output`; see `export`.

    Raises:
        ServingError: the model does not compute in float32, or the written model does not agree with it.
    """
    _require_float32(model)
    with ExitStack() as stack:
        with translate_os_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            _sweep(output)
            temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=output))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        stack.enter_context(translate_os_errors(output))
        # The lock ends with this process: a temporary folder without one was left by an export that was killed.
        stack.enter_context(folder_lock(temporary, what="tfpipe export"))
        stack.enter_context(_graphs_as_written())
        check = stack.enter_context(_ReadBack(temporary))
        say("writing the SavedModel ...")
        functions = build_signatures(model)
        _save(model, functions, temporary)
        _write_extras(model, temporary, model_name=model_name, provenance=provenance or Provenance())
        if tflite:
            say("converting to TensorFlow Lite ...")
            write_tflite(model, functions, temporary / SPEC_FILE.parent)
        say("reading it back in a process that loads TensorFlow alone ...")
        difference = check.difference(functions, example_inputs(model, describe(model), rows=_CHECK_ROWS))
        (temporary / LOCK).unlink()
        version = _publish(temporary, output)
    return Exported(
        path=output / str(version), version=version, signatures=tuple(sorted(functions)), difference=difference
    )


@contextlib.contextmanager
def _graphs_as_written() -> Iterator[None]:
    """Turns off TensorFlow's graph optimiser for the block; a model that is written in the block asks servers to do so.

    Optimising the graphs took most of a server's warm-up and made none of the signatures faster.
    """
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


def _require_float32(model: TrainedModel) -> None:
    """Refuses a model that was built under a mixed policy, because it would run many times slower on CPU servers."""
    networks = [model.encoder, model.decoder, model.vocoder, model.prior and model.prior.network]
    layers = [layer for network in networks if network is not None for layer in network.layers]
    wrong = sorted({layer.compute_dtype for layer in layers} - {"float32"})
    if wrong:
        raise ServingError(f"the model computes in {', '.join(wrong)}; build it under float32 and copy the weights")


def _save(model: TrainedModel, functions: dict[str, Any], path: Path) -> None:
    """Writes the SavedModel with variables and signatures, and without Keras's own metadata."""
    module = tf.Module(name="tfpipe")
    module.parameters = variables_of(model)
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    try:
        tf.saved_model.save(module, str(path), signatures=signatures)
    except tf.errors.OpError as error:
        why = str(error).splitlines()[0]
        if os.strerror(errno.ENOSPC) in why:
            raise ServingError(os_error_message(OSError(errno.ENOSPC, why), path.parent)) from error
        raise ServingError(f"{path.parent}: the model cannot be written ({why})") from error


def _write_extras(model: TrainedModel, path: Path, *, model_name: str, provenance: Provenance) -> None:
    """Writes `assets.extra`: warm-up requests, feature spec, description and model card."""
    write_warmup(model, path, model_name=model_name)
    write_json(path / SPEC_FILE, model.spec.to_dict())
    write_json(path / DESCRIPTION_FILE, describe(model))
    card = _model_card(model, model_name) + card_sections(provenance)
    write_bytes(path / MODEL_CARD_FILE, card.encode())
    if provenance.sources is not None:
        write_json(path / SOURCES_FILE, provenance.sources)


def _model_card(model: TrainedModel, name: str) -> str:
    spec = model.spec
    return f"""# {name}

{_networks_in_words(model)}

- Input: windows of {spec.window_s:g} s of mono audio at {spec.sample_rate} Hz,
  or their log-mel `{list(spec.mel_shape)}` in [0, 1].
- Latent: {_latent_in_words(model)}, with {_prior_in_words(model)}.
- Sound: {_sound_in_words(model)}.
- Trained on tracks labelled: {", ".join(model.labels) or "nothing"}. {_labels_in_words(model)}
- Feature spec fingerprint: `{spec.fingerprint}` (all values in `spec.json`).
- Audio out is rebuilt from the spectrogram: its phases are estimated, because a log-mel does not hold them.

{training_table(model.metadata)}
"""


def _networks_in_words(model: TrainedModel) -> str:
    if model.metadata.get("networks") == "own":
        return "An encoder and a decoder of log-mel spectrograms, built with Keras and exported with tfpipe."
    return "A convolutional variational autoencoder of log-mel spectrograms, trained with tfpipe."


def _latent_in_words(model: TrainedModel) -> str:
    steps, channels = model.latent_shape
    return f"{model.latent} dimensions" + (f", {steps} steps along time of {channels} each" if steps > 1 else "")


def _sound_in_words(model: TrainedModel) -> str:
    if model.vocoder is None:
        return "magnitudes estimated from the mel bands, phases from the magnitudes"
    return "magnitudes of a vocoder trained on the recordings, phases from the magnitudes"


def _prior_in_words(model: TrainedModel) -> str:
    return "a standard normal prior" if model.prior is None else "a learned prior, a rectified flow"


def _labels_in_words(model: TrainedModel) -> str:
    if model.prior is None:
        return "Labels are not an input of the model."
    return "`generate`, `continue` and `vary` take a label: its number in this list, from 0, or -1 for any."


class _ReadBack:
    """Runs `read_back.py`, which loads nothing of this project, in a process that starts while the model is written.

    If the block ends early, the process is killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _ReadBack:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfpipe-check-"))
            self._reference = Path(folder) / "reference.npz"
            script = Path(__file__).with_name("read_back.py")
            self._child = subprocess.Popen(
                children.python(["-P", str(script), str(self._path), str(self._reference)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            stack.enter_context(self._child)
            stack.callback(self._child.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def difference(self, functions: dict[str, Callable[..., Any]], inputs: dict[str, Any]) -> float:
        """Returns the largest difference of an output between the written model and these functions.

        Raises:
            ServingError: the written model does not load, or its outputs differ.
        """
        _write_reference(functions, inputs, self._reference)
        out, err = self._child.communicate()
        return _accepted_difference(
            subprocess.CompletedProcess(self._child.args, self._child.returncode, out, err), self._path
        )


def _write_reference(functions: dict[str, Callable[..., Any]], inputs: dict[str, Any], path: Path) -> None:
    """Writes the inputs and the outputs that the functions give for them, as `read_back.compare` takes them."""
    arrays: dict[str, NDArray[Any]] = {}
    with tf.device("/CPU:0"):
        for name, feeds in inputs.items():
            outputs = functions[name](**{alias: tf.constant(array) for alias, array in feeds.items()})
            arrays |= {f"{name}/in/{alias}": _plain(array) for alias, array in feeds.items()}
            arrays |= {f"{name}/out/{alias}": _plain(tensor.numpy()) for alias, tensor in outputs.items()}
    np.savez(path, **arrays)


def _accepted_difference(child: subprocess.CompletedProcess[str], path: Path) -> float:
    """Returns the difference that `read_back.py` printed; refuses one above the tolerance, and a child that failed."""
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
    """Returns the array with strings as base64, which np.savez writes without pickling and without losing zeros."""
    if array.dtype.kind != "O":
        return array
    return np.array([base64.b64encode(value) for value in array.flat], np.bytes_).reshape(array.shape)


def _sweep(output: Path) -> None:
    """Removes the temporary folders of exports that were killed: they are old and nobody holds their lock."""
    for leftover in output.glob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):  # another export has just published or removed it
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S and not is_locked(leftover):
                shutil.rmtree(leftover, ignore_errors=True)


def _publish(temporary: Path, output: Path) -> int:
    """Renames the finished folder to the next free version number, also while other exports do the same."""
    temporary.chmod(0o755)
    while True:
        taken = [int(path.name) for path in output.iterdir() if is_version(path.name)]
        version = max(taken, default=0) + 1
        try:
            # This fails if another export has just published that version, because its folder is not empty.
            os.rename(temporary, output / str(version))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return version
