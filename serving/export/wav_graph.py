"""WAV files as strings inside a graph: bytes to a window of audio, and audio to bytes (needs TensorFlow).

A signature with these ops takes and gives sound that any program can play. TensorFlow's own ops read and write mono or
multi-channel 16-bit PCM; everything else (other rates, peaks, edges) is computed here as `tfpipe.audio` does in NumPy.
Each row of a batch is treated alone.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfpipe.audio.level import EDGE_FADE_S, limiter_reach
from tfpipe.audio.mix import CANCELLED_DB
from tfpipe.audio.reader import RATES
from tfpipe.spec import FeatureSpec

# The part of the lower of two sample rates' band in which the resampler's gain falls to 0.
_ROLL_OFF = 0.05
# Silence at the end of a block that is resampled, s. The Fourier transform treats the block as a loop, so without
# silence its end would leak into its beginning.
_GAP_S = 0.5


def decode_wavs(wav_bytes: tf.Tensor, spec: FeatureSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the first window of WAV files, mixed to mono at the spec's sample rate.

    Args:
        wav_bytes: `[n]` strings, each a WAV file of 16-bit PCM with any sample rate and number of channels.
        spec: gives sample rate and window.

    Returns:
        audio `[n, samples]` float32, zero after the end of a file; and the samples that each file has in its window
        `[n]` int32.

    Raises:
        InvalidArgumentError: when the graph runs; a file is not such a WAV, or holds no sound.
    """

    def first_window(wav: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        audio, rate = tf.audio.decode_wav(wav)
        lowest, highest = RATES
        checks = [
            tf.debugging.Assert(
                (rate >= lowest) & (rate <= highest),
                [
                    f"wav_bytes: the sample rate must be {lowest} to {highest} Hz; best is {spec.sample_rate} Hz, not",
                    rate,
                ],
            ),
            tf.debugging.Assert(tf.shape(audio)[0] > 0, ["wav_bytes: the file holds no samples"]),
        ]
        with tf.control_dependencies(checks):
            audio = audio[: tf.cast(math.ceil(spec.window_s + _GAP_S), tf.int32) * rate]
        mono = _mono(audio)
        count = tf.cast(
            tf.round(tf.cast(tf.size(mono), tf.float64) * spec.sample_rate / tf.cast(rate, tf.float64)), tf.int32
        )
        same = tf.equal(rate, spec.sample_rate)
        mono = tf.cond(same, lambda: _fitted(mono, spec.samples), lambda: _resampled(mono, rate, spec))
        return mono, tf.clip_by_value(count, 1, spec.samples)

    outputs = (tf.TensorSpec([spec.samples], tf.float32), tf.TensorSpec([], tf.int32))
    audio, count = tf.map_fn(first_window, wav_bytes, fn_output_signature=outputs)
    return tf.reshape(audio, [-1, spec.samples]), tf.reshape(count, [-1])


def encode_wavs(audio: tf.Tensor, spec: FeatureSpec, count: tf.Tensor | None = None) -> tf.Tensor:
    """Writes audio as WAV files: mono 16-bit PCM, limited and faded as the files of `tfpipe generate` are.

    Args:
        audio: `[n, samples]` float32, full scale 1.0.
        spec: gives the sample rate.
        count: `[n]` int32, samples of each row to write; None writes whole rows.

    Returns:
        `[n]` strings.

    Raises:
        InvalidArgumentError: when the graph runs; the audio holds NaN or Inf.
    """
    if count is None:
        count = tf.fill([tf.shape(audio)[0]], spec.samples)

    def one(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        samples, length = row
        samples = tf.debugging.check_numerics(samples[:length], "the audio holds NaN or Inf; check the inputs")
        finished = fade_edges(limit_peaks(samples, spec.sample_rate), fade=round(EDGE_FADE_S * spec.sample_rate))
        return tf.audio.encode_wav(tf.cast(finished, tf.float32)[:, tf.newaxis], spec.sample_rate)

    return tf.map_fn(one, (audio, count), fn_output_signature=tf.TensorSpec([], tf.string))


def limit_peaks(audio: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Returns audio `[samples]` as `tfpipe.audio.level.limit_peaks` does, in float64."""
    audio = tf.cast(audio, tf.float64)
    size, count = limiter_reach(sample_rate) + 1, tf.size(audio)
    gain = 1.0 / tf.maximum(_window_maximum(tf.abs(audio), size), 1.0)
    ends = [tf.fill([size // 2], gain[0]), gain, tf.fill([size // 2], gain[-1])]
    sums = tf.cumsum(tf.concat([[tf.constant(0.0, tf.float64)], *ends], 0))
    return tf.clip_by_value(audio * (sums[size:] - sums[:count]) / size, -1.0, 1.0)


def fade_edges(audio: tf.Tensor, *, fade: int) -> tf.Tensor:
    """Returns audio `[samples]` float64 as `tfpipe.audio.level.fade_edges` does for a whole sound."""
    total = tf.size(audio)
    length = tf.minimum(fade, total // 2)
    position = tf.range(tf.cast(total, tf.float64), dtype=tf.float64) + 0.5
    nearest = tf.minimum(position, tf.cast(total, tf.float64) - position)
    share = tf.minimum(nearest / tf.cast(tf.maximum(length, 1), tf.float64), 1.0)
    return tf.where(length > 0, audio * tf.square(tf.sin(math.pi / 2 * share)), audio)


def _window_maximum(values: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the maximum of `size` non-negative values around each one, in about log2(size) steps."""
    count, width = tf.size(values), 1
    values = tf.pad(values, [[size // 2, size // 2]])
    while 2 * width <= size:
        values = tf.maximum(values[:-width], values[width:])
        width *= 2
    return tf.maximum(values[:count], values[size - width :][:count])


def _mono(audio: tf.Tensor) -> tf.Tensor:
    """Mixes `[samples, channels]` by the mean, or takes the loudest channel if the channels cancel each other.

    The rule is that of `tfpipe.audio.reader`.
    """
    energies = tf.reduce_sum(tf.square(audio), axis=0)
    mean = tf.reduce_mean(audio, axis=1)
    least = tf.reduce_max(energies) * 10.0 ** (CANCELLED_DB / 10.0) / tf.cast(tf.shape(audio)[1], tf.float32)
    return tf.where(tf.reduce_sum(tf.square(mean)) < least, tf.gather(audio, tf.argmax(energies), axis=1), mean)


def _fitted(audio: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Pads with zeros, or cuts, `[any]` to `[count]`."""
    audio = audio[:count]
    return tf.pad(audio, [[0, count - tf.size(audio)]])


def _resampled(audio: tf.Tensor, rate: tf.Tensor, spec: FeatureSpec) -> tf.Tensor:
    """Resamples the beginning of `[any]` to `[spec.samples]` by the Fourier transform of a block of whole seconds.

    In a block of k seconds, each bin stands for the same frequency at any sample rate. So the bins of the lower rate's
    band are kept, all others are zero, and the gain falls smoothly to the edge of the band.
    """
    seconds = math.ceil(spec.window_s + _GAP_S)
    block = _fitted(
        _fitted(audio, seconds * rate - tf.cast(_GAP_S * tf.cast(rate, tf.float32), tf.int32)), seconds * rate
    )
    bins = seconds * spec.sample_rate // 2 + 1
    spectrum = tf.signal.rfft(block)[:bins]
    spectrum = tf.pad(spectrum, [[0, bins - tf.size(spectrum)]])
    edge = tf.minimum(tf.cast(rate, tf.float32), float(spec.sample_rate)) / 2.0
    frequency = tf.range(bins, dtype=tf.float32) / seconds
    distance = tf.clip_by_value((edge - frequency) / (_ROLL_OFF * edge), 0.0, 1.0)
    gain = tf.square(tf.sin(math.pi / 2 * distance)) * (spec.sample_rate / tf.cast(rate, tf.float32))
    made = tf.signal.irfft(spectrum * tf.cast(gain, tf.complex64), [seconds * spec.sample_rate])
    return made[: spec.samples]
