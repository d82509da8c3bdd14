"""The part of `tfpipe bench preprocess` that measures stereo recordings of several formats.

Both sides are timed in CPU time of one process, in turn: the job's own functions, and the least that a program can do,
which is to decode the file with soundfile (m4a: PyAV) and to resample it with soxr.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import soundfile
import soxr
from av.audio.stream import AudioStream

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import discover
from beam_jobs.early import EarlyExamples
from beam_jobs.plan import make_plan
from beam_jobs.scan import scan_track
from beam_jobs.shards import write_shard
from tfpipe.audio.info import Samples
from tfpipe.audio.reader import TrackReader
from tfpipe.bench.compare import Result, Step, compared, rates

RATES = (44_100, 48_000)
# libsndfile's format and codec for each suffix; FFmpeg encodes m4a.
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "m4a": ("ipod", "aac"),
}
_BLOCK = 2**18
# libsndfile's Vorbis encoder keeps on the stack what it gets in one call.
_WRITTEN = 4096
# The right channel is the left one, quieter and later, as in a room.
_LEVEL, _DELAY_S = 0.7, 0.001


def bench_formats(config: PreprocessConfig, *, rounds: int, seconds: float) -> list[Result]:
    """Measures one stereo file of each format and rate.

    Args:
        config: settings of the job; its inputs give the sound.
        rounds: how often everything is timed.
        seconds: length of each file, s.

    Raises:
        TfpipeError: there is no usable audio.
    """
    results = []
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        mono = _sound(config, seconds=seconds)
        for rate in RATES:
            stereo = _stereo(mono, config.spec.sample_rate, rate)
            for suffix in FORMATS:
                path = Path(folder) / f"{suffix}-{rate}" / "Sound" / f"sound.{suffix}"
                path.parent.mkdir(parents=True)
                write_recording(path, stereo, rate)
                one = dataclasses.replace(config, inputs=(str(path.parents[1]),))
                results += _measured(f"stereo {rate / 1000:g} kHz {suffix}", path, one, rounds=rounds)
    return results


def write_recording(path: Path, audio: Samples, rate: int) -> None:
    """Writes `audio` `[frames, 2]` at `rate` Hz in the format of the path's suffix, one of `FORMATS`."""
    container, codec = FORMATS[path.suffix[1:]]
    if container == "ipod":
        _write_m4a(path, audio, rate, container, codec)
        return
    with soundfile.SoundFile(path, "w", rate, audio.shape[1], format=container, subtype=codec) as file:
        for start in range(0, len(audio), _WRITTEN):
            file.write(audio[start : start + _WRITTEN])


def decode_plainly(path: Path, rate: int) -> int:
    """Decodes a stereo file, mixes it to mono and resamples it to `rate` Hz, block by block; returns the samples."""
    own, blocks = (_ffmpeg_blocks if path.suffix == ".m4a" else _libsndfile_blocks)(path)
    stream, samples = soxr.ResampleStream(own, rate, 1, dtype="float32", quality="HQ"), 0
    for block in blocks:
        mono = (block[:, 0] + block[:, 1]) * np.float32(0.5)
        samples += len(stream.resample_chunk(mono))
    return samples + len(stream.resample_chunk(np.zeros(0, np.float32), last=True))


def _measured(name: str, path: Path, config: PreprocessConfig, *, rounds: int) -> list[Result]:
    """Returns the speed of the limit, of reading all windows, and of the job, which also makes and writes examples."""
    spec = config.spec
    with TrackReader(path) as reader:
        seconds = round(reader.info.seconds)

    def read() -> int:
        with TrackReader(path) as reader:
            for start in reader.plan(spec=spec, hop_s=None, min_fill=1.0):
                reader.read(start, spec.samples, rate=spec.sample_rate)
        return seconds

    examples = _job(config)

    def job() -> int:
        _job(config)
        return seconds

    def decode() -> int:
        decode_plainly(path, spec.sample_rate)
        return seconds

    steps: dict[str, Step] = {
        "limit": _in_cpu_time(decode),
        "read": _in_cpu_time(read),
        "job": _in_cpu_time(job),
    }
    found = rates(steps, rounds=rounds, what=name)
    limit, windows, whole = (
        dataclasses.replace(compared(f"{name}: {what}", found[step], against="limit", of=found["limit"]), unit="x time")
        for step, what in (
            ("limit", "decoded by soundfile or PyAV, and soxr"),
            ("read", "windows read"),
            ("job", "job"),
        )
    )
    made = Result(name=f"{name}: job, per core", value=whole.value * examples / seconds, unit="examples/s")
    return [limit, windows, whole, made]


def _in_cpu_time(step: Callable[[], int]) -> Callable[[], tuple[int, float]]:
    def timed() -> tuple[int, float]:
        started = time.process_time()
        count = step()
        return count, time.process_time() - started

    return timed


def plain_job(config: PreprocessConfig) -> int:
    """Does what the job does, in this process and without Beam; returns the number of examples.

    Args:
        config: the job's settings; its output folder must not exist yet.
    """
    Path(config.output).mkdir()
    early = EarlyExamples(folder=f"{config.output}/early", config=config)
    corpus = discover(config.inputs)
    scans = [scan_track(file, config, early=early) for file in corpus.files]
    plan = make_plan(scans, config=config, skipped=corpus.skipped)
    for shard in plan.shards:
        write_shard(shard, config=config, folder=config.output, early=early)
    return plan.examples


def _job(config: PreprocessConfig) -> int:
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        return plain_job(dataclasses.replace(config, output=f"{folder}/data"))


def _sound(config: PreprocessConfig, *, seconds: float) -> Samples:
    """Returns `seconds` of the inputs, one after the other and from the start again, `[samples]` at the spec's rate."""
    rate, parts, missing = config.spec.sample_rate, list[Samples](), round(seconds * config.spec.sample_rate)
    for file in discover(config.inputs).files:
        with TrackReader(file.path) as reader:
            parts.append(reader.read(0, min(missing, int(reader.info.seconds * rate)), rate=rate))
        missing -= len(parts[-1])
        if missing <= 0:
            break
    return np.resize(np.concatenate(parts), round(seconds * rate))


def _stereo(mono: Samples, own: int, rate: int) -> Samples:
    left = soxr.resample(mono, own, rate)
    return np.stack([left, _LEVEL * np.roll(left, round(_DELAY_S * rate))], axis=1)


def _libsndfile_blocks(path: Path) -> tuple[int, Iterator[Samples]]:
    return soundfile.info(path).samplerate, soundfile.blocks(path, _BLOCK, dtype="float32", always_2d=True)


def _ffmpeg_blocks(path: Path) -> tuple[int, Iterator[Samples]]:
    file = av.open(str(path))

    def blocks() -> Iterator[Samples]:
        with file:
            for frame in file.decode(audio=0):
                yield frame.to_ndarray().astype(np.float32, copy=False).T

    return file.streams.audio[0].sample_rate, blocks()


def _write_m4a(path: Path, audio: Samples, rate: int, container: str, codec: str) -> None:
    with av.open(str(path), "w", format=container) as file:
        stream = cast(AudioStream, file.add_stream(codec, rate=rate, layout="stereo"))
        stream.bit_rate = 128_000
        for start in range(0, len(audio), 1024):
            block = np.ascontiguousarray(audio[start : start + 1024].T, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
