"""Decoding and resampling with tensorflow-io, on the lane where its library loads (needs TensorFlow).

`tfpipe.data.recordings` uses this module only when it is asked to, for comparison. `tfpipe.audio.reader` is at
least as exact and as fast on every format, reads more formats, and reads long
files in parts. Windows per second through `tfpipe.data.recordings`, two busy cores, medians:

| recordings | `tfpipe.audio.reader` | tensorflow-io |
| --- | --- | --- |
| wav, 22.05 kHz mono, 15 s | 536 | 486 |
| flac, mp3, ogg of the same | 344, 514, 293 | 81, 130, 109 |
| wav, 44.1 kHz stereo, 15 s | 115 | 43 |
| wav, 22.05 kHz mono, 1 h | 557, no more memory than for 15 s | refused: decoding takes 700 MB |

Decoding uses the ops that take a whole file (`tfio.audio.decode_*`).
`tfio.audio.AudioIOTensor` could read parts, but if two of them are open, both
read the file that was opened last (0.37.1). wav and flac are decoded exactly,
ogg and mp3 within 7e-7 of full scale. wav of 32-bit integers would be misread
as floats, and wav of doubles is not supported.

`tfio.audio.resample` is the resampler of Speex at quality 4. Its output is late by
the filter's delay, 1 to 2 ms, which is enough to change a log-mel by 0.1; `read`
removes the delay. The filter also differs from that of `tfpipe.audio.reader`: at
22.05 kHz it starts to fall at 9 kHz instead of 10 kHz. The default spec's log-mels, which end at 8 kHz, agree within
0.005. In a recording below the spec's rate the filter leaves mirror images above the
recording's own band (0.4 of a log-mel), so such files are refused.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_io as tfio
from numpy.typing import NDArray

from tfpipe.audio.info import AudioInfo
from tfpipe.audio.reader import TrackReader, probe
from tfpipe.errors import AudioError
from tfpipe.features.log_mel import FloatArray

# The formats that are decoded correctly, by `AudioInfo.format`. 24-bit samples are in the upper bits of 32.
_WAV_TYPES = {"PCM_U8": tf.uint8, "PCM_16": tf.int16, "PCM_24": tf.int32, "FLOAT": tf.float32}
_DECODERS = {
    **{f"WAV/{codec}": functools.partial(tfio.audio.decode_wav, dtype=dtype) for codec, dtype in _WAV_TYPES.items()},
    **{f"WAVEX/{codec}": functools.partial(tfio.audio.decode_wav, dtype=dtype) for codec, dtype in _WAV_TYPES.items()},
    "FLAC/PCM_16": functools.partial(tfio.audio.decode_flac, dtype=tf.int16),
    "FLAC/PCM_24": functools.partial(tfio.audio.decode_flac, dtype=tf.int32),
    "OGG/VORBIS": tfio.audio.decode_vorbis,
    "MP3/MPEG_LAYER_III": tfio.audio.decode_mp3,
}
_SCALES = {"uint8": 2.0**-7, "int16": 2.0**-15, "int32": 2.0**-31, "float32": 1.0}
# The most samples of all channels together in a file: 6 min of a CD, 150 MB while it is decoded.
_MOST_VALUES = 2**24
# Taps of Speex's filter at quality 4. It is longer if the rate gets lower.
_TAPS = 64


def check() -> None:
    """Decodes a second of silence.

    Raises:
        NotImplementedError: tensorflow-io could not load its library; it says so only when an op is called.
    """
    tfio.audio.decode_wav(tf.audio.encode_wav(tf.zeros([22_050, 1]), 22_050), dtype=tf.int16)


class TensorflowIoDecoder:
    """An audio file that is decoded as a whole; a `tfpipe.audio.info.Decoder`.

    Args:
        path: local audio file.
        info: the file's properties from `probe`, if the caller has them.

    Raises:
        AudioError: as `probe`; also `undecodable` if the file is too long, or if tensorflow-io refuses it or would
            read other samples than `tfpipe.audio.reader`.
    """

    def __init__(self, path: str | os.PathLike[str], info: AudioInfo | None = None) -> None:
        self._path = path
        self.info = info or probe(path)
        decode = _DECODERS.get(self.info.format)
        size = self.info.frames, self.info.channels
        if decode is None:
            raise self._refused(f"does not decode {self.info.format}")
        if size[0] * size[1] > _MOST_VALUES:
            raise self._refused(
                f"decodes whole files, and {self.info.seconds / 60:.0f} min of this one need much memory"
            )
        try:
            self._audio: NDArray[Any] = decode(tf.io.read_file(os.fspath(path))).numpy()
        except tf.errors.OpError as error:
            raise self._refused(f"cannot decode it ({error.message})") from error
        if self._audio.shape != size:
            raise self._refused(f"finds {self._audio.shape} samples, not {size}")

    def frames(self, first: int, count: int) -> Iterator[FloatArray]:
        """Yields one float64 block `[count, channels]` from frame `first`, shorter if the file ends before."""
        block = self._audio[first : first + count]
        middle = 128.0 if block.dtype == np.uint8 else 0.0
        yield (block.astype(np.float64) - middle) * _SCALES[block.dtype.name]

    def close(self) -> None:
        """Frees the memory of the samples."""
        self._audio = self._audio[:0].copy()

    def _refused(self, what: str) -> AudioError:
        return AudioError("undecodable", f"{self._path}: tensorflow-io {what}; use --decoder library")


def read(reader: TrackReader, start: int, count: int, *, rate: int) -> tuple[FloatArray, int]:
    """Reads the audio that `resample` turns into `count` samples from sample `start`.

    Speex's filter of n taps delays its output by n/2 input samples. If the rate gets
    lower, n grows with the ratio of the rates, in steps of 8 (J.-M. Valin's resampler).
    Therefore n/2 zeros are added after the audio; zeros are also added before it, so
    that the delay is a whole number of output samples.

    Args:
        reader: the open recording.
        start: first sample, counted at `rate`.
        count: number of samples, counted at `rate`.
        rate: Hz, of the resampled audio.

    Returns:
        `[frames]` float64 at the file's rate, and how many samples at `rate` come before `start`.

    Raises:
        AudioError: as `TrackReader.read`, and `undecodable` for a rate below `rate`.
    """
    own = reader.info.sample_rate
    if own < rate:
        raise AudioError(
            "undecodable",
            f"{reader.path}: tensorflow-io does not resample {own} Hz to {rate} Hz exactly; use --decoder library",
        )
    audio, skip = reader.source(start, count, rate=rate)
    if own == rate:
        return audio, skip
    delay = -(-(_TAPS * max(own, rate) // rate) // 8) * 4
    step = own // math.gcd(own, rate)
    before = -(-delay // step) * step
    return np.pad(audio, (before - delay, delay)), skip + before * rate // own


def resample(audio: tf.Tensor, own: tf.Tensor, rate: int) -> tf.Tensor:
    """Resamples `[frames]` float32 from `own` to `rate` Hz, in a graph."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # without this it warns that several files at once are not faster
    try:
        return tf.cond(tf.equal(own, rate), lambda: audio, lambda: tfio.audio.resample(audio, own, rate))
    finally:
        logger.setLevel(level)
