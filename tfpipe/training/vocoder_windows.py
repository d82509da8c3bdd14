"""Recorded windows in memory to train the vocoder on: their sound, and log-mels as recorded and as decoded.

The network must correct what the inversion is given, and that is mostly made by the run's own decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.audio.reader import TrackReader, window_starts
from tfpipe.data.manifest import Folder, Manifest, load_tracks
from tfpipe.errors import RunError, TfpipeError
from tfpipe.features.inversion_tf import levelled
from tfpipe.features.log_mel_tf import log_mel
from tfpipe.files.remote import join
from tfpipe.process.progress import Progress
from tfpipe.spec import FeatureSpec
from tfpipe.training.trained_model import TrainedModel

# Windows that are encoded at a time.
_BATCH = 16
# The int16 code of full scale.
FULL_SCALE = 32767.0


@dataclass(frozen=True, kw_only=True)
class RecordedWindows:
    """Windows of recordings.

    Attributes:
        audio: `[n, samples]` int16.
        ref_db: `[n]` float32, level of each window's maximum, dB.
        mels: `[2, n, n_mels, frames]` uint8: log-mels as recorded, and as the decoder makes them; their maximum is 1.
    """

    audio: NDArray[np.int16]
    ref_db: NDArray[np.float32]
    mels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.audio)


def read_windows(
    data: Folder, manifest: Manifest, split: str, *, model: TrainedModel, most: int, quiet: bool
) -> RecordedWindows:
    """Reads windows of a split's recordings, spread evenly over all of them.

    Args:
        data: dataset folder, local or a URL. It says where the recordings are.
        manifest: its manifest.
        split: `train` or `validation`.
        model: encodes and decodes them.
        most: number of windows; all are taken if there are fewer.
        quiet: show no progress.

    Raises:
        RunError: a recording cannot be read.
    """
    spec, base = manifest.spec, manifest.config.get("base")
    places = [
        (track.path, start)
        for track in load_tracks(data)
        if track.split == split
        for start in window_starts(track.seconds, spec=spec, hop_s=None, min_fill=0.5)
    ]
    chosen = [places[index] for index in np.unique(np.linspace(0, len(places) - 1, most).astype(int))] if places else []
    kept: list[NDArray[np.int16]] = []
    with Progress(f"read {split} recordings", total=len(chosen), unit="window", quiet=quiet) as bar:
        for path in dict.fromkeys(path for path, _ in chosen):
            try:
                if base is None:
                    raise RunError("the dataset does not say where its recordings are; preprocess them again")
                with TrackReader(join(base, path)) as reader:
                    for start in (start for name, start in chosen if name == path):
                        window = reader.read(round(start * spec.sample_rate), spec.samples, rate=spec.sample_rate)
                        if np.abs(window).max() >= spec.silence_peak:
                            kept.append(np.rint(np.clip(window, -1.0, 1.0) * FULL_SCALE).astype(np.int16))
                        bar.update()
            except (TfpipeError, OSError) as error:
                raise RunError(
                    f"{path}: the vocoder is trained on the recordings themselves, and this one cannot be read "
                    f"({error}); put it back where it was when the dataset was made"
                ) from error
    audio = np.stack(kept) if kept else np.zeros([0, spec.samples], np.int16)
    return _encoded(audio, spec, _reconstruction(model))


def _encoded(audio: NDArray[np.int16], spec: FeatureSpec, rebuild: Callable[[Any], Any]) -> RecordedWindows:
    """Adds log-mels and levels to windows of sound."""
    mels = np.zeros([2, len(audio), *spec.mel_shape], np.uint8)
    ref_db = np.zeros(len(audio), np.float32)
    signature = [tf.TensorSpec([None, spec.samples], tf.float32)]
    features = tf.function(lambda sound: log_mel(sound, spec), input_signature=signature, autograph=False)
    for start in range(0, len(audio), _BATCH):
        rows = slice(start, start + _BATCH)
        mel, level = features(tf.constant(audio[rows] / FULL_SCALE, tf.float32))
        for kind, shown in enumerate((mel, rebuild(mel))):
            mels[kind, rows] = np.rint(np.asarray(levelled(shown, spec)) * 255.0)
        ref_db[rows] = level
    return RecordedWindows(audio=audio, ref_db=ref_db, mels=mels)


def _reconstruction(model: TrainedModel) -> Callable[[Any], Any]:
    """Returns the way through encoder and decoder as a graph."""

    def rebuild(mel: tf.Tensor) -> tf.Tensor:
        z_mean, _ = model.encoder(mel[..., tf.newaxis], training=False)
        return model.decoder(z_mean, training=False)[..., 0]

    shape = tf.TensorSpec([None, *model.spec.mel_shape])
    graph: Callable[[Any], Any] = tf.function(rebuild, input_signature=[shape], autograph=False)
    return graph
