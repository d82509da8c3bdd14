"""Streams the windows of recordings through tf.data, without a dataset folder (needs TensorFlow).

The windows are the same as in the Beam job: it uses the same plan, decoder and
resampler, leaves out silent windows, and leaves out every window of a file that
is damaged in any part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.audio.cutting import DECODERS, CutConfig
from tfpipe.audio.reader import TrackReader
from tfpipe.errors import AudioError, UsageError
from tfpipe.files.remote import require_local
from tfpipe.lanes import LANES, installed_version, tensorflow_io_loads
from tfpipe.spec import FeatureSpec

# Number of tracks that are read at the same time, each by a thread of its own.
_READERS = min(8, os.cpu_count() or 1)
# Number of windows taken from one track before the next track's turn.
_TURN = 4


class RecordingWindows:
    """The windows of some recordings.

    Args:
        paths: audio files; the library decoder takes URLs too.
        spec: gives the sample rate, the window length and the level below which a window is silent.
        cut: how each recording is cut into windows; None is the default.
        decoder: `auto`, `library` or `tensorflow-io`.

    Attributes:
        seconds: length of each track in s, by its index in `paths`.
        windows: number of windows of each track, silent ones included, by its index.
        failed: why a track cannot be used, by its index. The caller must drop those of the track's
            windows that came before the damage was found.

    The last three are filled while `batches` is read.

    Raises:
        UsageError: a value is out of range, or tensorflow-io does not work here or is given a URL.
    """

    def __init__(
        self,
        paths: Sequence[str],
        spec: FeatureSpec,
        *,
        cut: CutConfig | None = None,
        decoder: str = "auto",
    ) -> None:
        if decoder not in DECODERS:
            raise UsageError(f"decoder {decoder!r} is unknown; use one of {', '.join(DECODERS)}")
        self.paths, self.spec = tuple(paths), spec
        self.decoder = "library" if decoder == "auto" else decoder
        self._tfio = _tensorflow_io(self.paths) if self.decoder == "tensorflow-io" else None
        self._cut = cut or CutConfig()
        self.seconds: dict[int, float] = {}
        self.windows: dict[int, int] = {}
        self.failed: dict[int, AudioError] = {}

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Streams all windows that are not silent; those of one track come in time order.

        Several tracks are read at the same time. Memory holds a few windows of each,
        for any length of the files. The exception are mp3 files and files that cannot
        seek: of these it holds a minute (`tfpipe.audio.libsndfile.SndfileDecoder`).

        Args:
            batch_size: windows in a batch.

        Returns:
            A dataset of `audio` `[batch, spec.samples]` float32, full scale 1.0, `track` `[batch]` int64 and
            `start_s` `[batch]` float64.

        Raises:
            UsageError: the batch size is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is out of range; use 1 or more windows")
        windows = tf.data.Dataset.range(len(self.paths)).interleave(
            self._track, cycle_length=_READERS, block_length=_TURN, num_parallel_calls=_READERS, deterministic=True
        )
        windows = windows.map(self._window, num_parallel_calls=_READERS, deterministic=True)
        return windows.filter(self._is_loud).batch(batch_size).prefetch(2)

    def _track(self, track: tf.Tensor) -> tf.data.Dataset:
        scalars = {"rate": tf.int64, "skip": tf.int64, "track": tf.int64, "start_s": tf.float64}
        signature = {name: tf.TensorSpec([], dtype) for name, dtype in scalars.items()}
        signature["audio"] = tf.TensorSpec([None], tf.float32)
        return tf.data.Dataset.from_generator(self._read, args=(track,), output_signature=signature)

    def _read(self, track: np.int64) -> Iterator[dict[str, Any]]:
        """Yields a track's windows; with tensorflow-io, the frames from which `_window` makes them."""
        index, rate, samples = int(track), self.spec.sample_rate, self.spec.samples
        tfio = self._tfio
        try:
            with TrackReader(self.paths[index], decoder=tfio.TensorflowIoDecoder if tfio else None) as reader:
                starts = reader.plan(spec=self.spec, hop_s=self._cut.hop_s, min_fill=self._cut.min_fill)
                self.seconds[index], self.windows[index] = reader.info.seconds, len(starts)
                for start in starts:
                    if tfio:
                        audio, skip = tfio.read(reader, start, samples, rate=rate)
                    else:
                        audio, skip = reader.read(start, samples, rate=rate), 0
                    place = {"track": index, "start_s": start / rate}
                    yield {"audio": audio.astype(np.float32), "rate": reader.info.sample_rate, "skip": skip, **place}
        except AudioError as error:
            self.failed[index] = error

    def _window(self, element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        audio, rate, skip = (element.pop(name) for name in ("audio", "rate", "skip"))
        if self._tfio:
            audio = self._tfio.resample(audio, rate, self.spec.sample_rate)[skip:][: self.spec.samples]
            audio = tf.pad(audio, [[0, self.spec.samples - tf.shape(audio)[0]]])
        return {"audio": tf.ensure_shape(audio, [self.spec.samples]), **element}

    def _is_loud(self, window: dict[str, tf.Tensor]) -> tf.Tensor:
        """Does in the graph what `not tfpipe.features.log_mel.is_silent` does in NumPy."""
        return tf.cast(tf.reduce_max(tf.abs(window["audio"])), tf.float64) >= self.spec.silence_peak


def _tensorflow_io(paths: Sequence[str]) -> ModuleType:
    """Returns the module `tfpipe.audio.tensorflow_io`.

    Raises:
        UsageError: it does not work here, or cannot read one of the paths.
    """
    version = installed_version("tensorflow")
    if not tensorflow_io_loads(version):
        raise UsageError(
            f"tensorflow-io cannot decode audio with TensorFlow {version}; use --decoder library, or the versions of "
            f"the default lane, where it can (`pip install tfpipe tensorflow=={LANES['default']['tensorflow']}`)"
        )
    for path in paths:
        require_local(path, what="a file that tensorflow-io decodes")
    try:
        from tfpipe.audio import tensorflow_io

        tensorflow_io.check()
    except Exception as error:
        raise UsageError(f"tensorflow-io does not work here ({error}); use --decoder library") from error
    return tensorflow_io
