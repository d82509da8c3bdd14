"""Decoding and resampling with tensorflow-io, on the lane where it loads (needs TensorFlow).

`tfpipe.data.recordings` uses this where it is told to, for comparing; `tfpipe.audio.reader` is as
exact or more, as fast or faster on every format, reads more of them, and long
files in parts. Windows a second through `tfpipe.data.recordings`, two busy cores, medians:

| recordings | `tfpipe.audio.reader` | tensorflow-io |
| --- | --- | --- |
| wav, 22.05 kHz mono, 15 s | 536 | 486 |
| flac, mp3, ogg of the same | 344, 514, 293 | 81, 130, 109 |
| wav, 44.1 kHz stereo, 15 s | 115 | 43 |
| wav, 22.05 kHz mono, 1 h | 557, no more memory than for 15 s | refused: decoding takes 700 MB |

Decoding goes through the ops that take a whole file (`tfio.audio.decode_*`).
`tfio.audio.AudioIOTensor` would read parts, but of two that are open at a time
both read the file that was opened last (0.37.1). wav and flac come out exact,
ogg and mp3 within 7e-7 of full scale; wav of 32-bit integers would be misread
as floats and that of doubles is not known.

`tfio.audio.resample` is Speex's resampler at quality 4 and leaves that filter's
delay, 1 to 2 ms, in what it returns: enough to move a log-mel by 0.1. `read`
takes it out. What stays is another filter, which falls off from 9 kHz at
22.05 kHz instead of 10: the default spec's log-mels, up to 8 kHz, agree within
0.005. Below the spec's rate the filter leaves images above the recording's own
band (0.4 of a log-mel), and such files are refused.
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

# What is decoded rightly, by `AudioInfo.format`; 24 bits come in the upper ones of 32.
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
# Samples, of all channels, of the longest file: 6 min of a CD, 150 MB while it is decoded.
_MOST_VALUES = 2**24
# Taps of Speex's filter at quality 4, before it is widened for a lower rate.
_TAPS = 64


def check() -> None:
    """Decodes a second of silence.

    Raises:
        NotImplementedError: tensorflow-io could not load its library, which shows only when an op is called.
    """
    tfio.audio.decode_wav(tf.audio.encode_wav(tf.zeros([22_050, 1]), 22_050), dtype=tf.int16)


class TensorflowIoDecoder:
    """A file that is decoded as a whole: a decoder for `tfpipe.audio.reader.TrackReader`.

    Args:
        path: local audio file.
        info: the file's `probe`, when the caller has it.

    Raises:
        AudioError: as `probe`, and `undecodable` for what is too long, or what tensorflow-io refuses or would read
            otherwise than `tfpipe.audio.reader`.
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
        """Yields `[count, channels]` float64 from frame `first`, fewer where the file ends."""
        block = self._audio[first : first + count]
        middle = 128.0 if block.dtype == np.uint8 else 0.0
        yield (block.astype(np.float64) - middle) * _SCALES[block.dtype.name]

    def close(self) -> None:
        """Lets go of the samples."""
        self._audio = self._audio[:0].copy()

    def _refused(self, what: str) -> AudioError:
        return AudioError("undecodable", f"{self._path}: tensorflow-io {what}; use --decoder library")


def read(reader: TrackReader, start: int, count: int, *, rate: int) -> tuple[FloatArray, int]:
    """Reads what `resample` turns into `count` samples from sample `start`, both counted at `rate` Hz.

    Speex's filter of n taps delays by n/2 of the input's samples; n grows with
    the ratio where the rate gets lower, in steps of 8 (J.-M. Valin's resampler).
    So that many are put behind the audio, and before it what makes whole
    samples of the output.

    Returns:
        `[frames]` float64 at the file's rate, and how many samples at `rate` Hz come before `start`.

    Raises:
        AudioError: as `TrackReader.read`, and `undecodable` for a rate below `rate`.
    """
    own = reader.info.sample_rate
    if own < rate:
        raise AudioError(
            "undecodable",
            f"{reader.path}: tensorflow-io resamples {own} Hz to {rate} Hz otherwise; use --decoder library",
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
    logger.setLevel("ERROR")  # it would say that there is no faster way for several files at once
    try:
        return tf.cond(tf.equal(own, rate), lambda: audio, lambda: tfio.audio.resample(audio, own, rate))
    finally:
        logger.setLevel(level)
