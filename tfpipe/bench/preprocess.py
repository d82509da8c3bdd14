"""`tfpipe bench preprocess`: compares the job with the notebook's loop, and Beam with a plain loop, in one run.

`tfpipe.bench.formats` measures stereo recordings of several formats in the same run.

Each round times all candidates one after the other, so a machine that slows
down slows them all. Each ratio is the median over the rounds of two
neighbouring timings.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
from librosa.effects import pitch_shift

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import discover
from beam_jobs.job import preprocess
from beam_jobs.plan import Plan, ShardPlan, make_plan
from beam_jobs.scan import scan_track
from beam_jobs.shards import write_shard
from beam_jobs.variants import Variant
from tfpipe.audio.reader import TrackReader, read_window
from tfpipe.audio.wav import write_wav
from tfpipe.bench.compare import Result, compared, rates
from tfpipe.bench.formats import bench_formats, plain_job
from tfpipe.bench.watch import Watch
from tfpipe.errors import UsageError
from tfpipe.process.progress import Progress
from tfpipe.spec import FeatureSpec

# The original and eleven shifts. Chords are left out: they cost the notebook one shift for each note, so they would
# make the ratio look better.
SEMITONES = (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
_WINDOWS = 3
# Repetitions for the spectral engine, which would otherwise be too fast to time.
_REPEATS = 20
# Work for the Beam job, in s of the spectral engine: enough that its rate does not depend on its start.
_JOB_S = 12.0
_SIZES = (1, 4, 16)
# The engines are timed in seconds, so they can have more rounds than the jobs.
_ENGINE_ROUNDS = 5
# Seconds of recordings that are copied for the larger corpora; more would only take longer.
_BASE_S = 200.0
# Seconds of each stereo file.
_FORMAT_S = 60.0


def bench_preprocess(inputs: Sequence[str], *, rounds: int, workers: int) -> list[Result]:
    """Measures the job on recordings.

    Args:
        inputs: recordings, given as for the job; a few minutes of audio are enough.
        rounds: how often everything is timed.
        workers: number of processes to compare with one process.

    Raises:
        UsageError: `rounds` is below 1, or `workers` below 2.
        TfpipeError: there is no usable audio.
    """
    if rounds < 1 or workers < 2:
        raise UsageError(f"rounds={rounds}, workers={workers} cannot be measured; use at least 1 and 2")
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        config = PreprocessConfig(
            inputs=tuple(inputs),
            output=f"{folder}/data",
            semitones=SEMITONES,
            chords=(),
            validation_share=0,
            test_share=0,
        )
        results, rate = _engines(config, rounds=max(_ENGINE_ROUNDS, rounds))
        results += bench_formats(config, rounds=rounds, seconds=_FORMAT_S)
        beam = _beam(config, rate=rate, rounds=rounds, workers=workers)
        return [*results, *beam, *_growth(config, rate=rate, rounds=rounds, folder=Path(folder))]


def notebook_loop(path: str, starts: Sequence[int], variants: Sequence[Variant], spec: FeatureSpec) -> None:
    """Does what the notebook does (In [7] and [8]): calls librosa for each window and variant.

    The audio is float32, as librosa loads it. The loop writes no examples, while the job's time includes that.
    """
    for start in starts:
        audio = read_window(path, start_s=start / spec.sample_rate, spec=spec).astype(np.float32)
        for variant in variants:
            shifts = [
                pitch_shift(audio, sr=spec.sample_rate, n_steps=shift) if shift else audio
                for shift in variant.semitones
            ]
            sound = shifts[0] if len(shifts) == 1 else np.mean(shifts, axis=0)
            mel = librosa.feature.melspectrogram(
                y=sound,
                sr=spec.sample_rate,
                n_mels=spec.n_mels,
                fmin=spec.fmin,
                fmax=spec.fmax,
                hop_length=spec.hop,
                n_fft=spec.n_fft,
                power=spec.power,
            )
            librosa.power_to_db(mel, ref=np.max)


def _engines(config: PreprocessConfig, *, rounds: int) -> tuple[list[Result], float]:
    """Compares both engines, decoding and writing included, with the notebook's loop; adds the spectral rate."""
    plan = _few_windows(config)

    def notebook() -> None:
        for track in plan.tracks:
            notebook_loop(track.path, track.starts, plan.variants, config.spec)

    by_waveform = functools.partial(_write, plan, dataclasses.replace(config, engine="waveform"))

    def counted(step: Callable[[], None], examples: int) -> Callable[[], int]:
        def run() -> int:
            step()
            return examples

        return run

    engines = {
        "notebook loop": counted(notebook, plan.examples),
        "spectral engine": counted(functools.partial(_write, _repeated(plan), config), _REPEATS * plan.examples),
        "waveform engine": counted(by_waveform, plan.examples),
    }
    found = rates(engines, rounds=rounds, what="engines")
    baseline = found["notebook loop"]
    results = [compared(name, speeds, against="baseline", of=baseline) for name, speeds in found.items()]
    return results, statistics.median(found["spectral engine"])


def _beam(config: PreprocessConfig, *, rate: float, rounds: int, workers: int) -> list[Result]:
    """Compares the job, with one process and with several, with a plain loop over the same functions.

    A job takes seconds to start. To leave the start out, the job runs once on all files and once on the first
    file; the difference of the two times is the work.
    """
    files = discover(config.inputs).files
    whole = dataclasses.replace(config, hop_s=_hop_for(config, examples=_JOB_S * rate))
    part = dataclasses.replace(whole, inputs=(files[0].path,))
    one, many = "Beam job, 1 process", f"Beam job, {workers} processes"
    found: dict[str, list[float]] = {"plain loop": [], one: [], many: []}
    starts: dict[str, list[float]] = {one: [], many: []}
    with Progress("Beam", total=5 * rounds, unit="timing") as bar:
        for _ in range(rounds):
            seconds, examples = _timed(whole, plain_job)
            found["plain loop"].append(examples / seconds)
            bar.update()
            for name, processes in ((one, 1), (many, workers)):
                long, examples = _timed(dataclasses.replace(whole, workers=processes), _job)
                short, fewer = _timed(dataclasses.replace(part, workers=processes), _job)
                found[name].append((examples - fewer) / max(1e-9, long - short))
                starts[name].append(short - fewer / found[name][-1])
                bar.update(2)
    return [
        compared("plain loop", found["plain loop"], against="limit", of=found["plain loop"]),
        compared(one, found[one], against="limit", of=found["plain loop"]),
        compared(many, found[many], against="baseline", of=found[one]),
        *(Result(name=f"{name}: start", value=statistics.median(values), unit="s") for name, values in starts.items()),
    ]


def _growth(config: PreprocessConfig, *, rate: float, rounds: int, folder: Path) -> list[Result]:
    """Measures time and memory of the job on a corpus, on 4 copies of it and on 16 copies.

    The time grows linearly if the step from 4 to 16 copies has the same rate as the step from 1 to 4.
    """
    corpora = [(size, _multiplied(config, size, folder=folder)) for size in _SIZES]
    one = dataclasses.replace(config, inputs=(corpora[0][1],))
    hop_s = _hop_for(one, examples=_JOB_S / 8 * rate)
    steps: list[list[float]] = [[] for _ in _SIZES[1:]]
    peaks: dict[int, list[float]] = {size: [] for size in _SIZES}
    with Progress("growth", total=rounds * len(_SIZES), unit="timing") as bar:
        for _ in range(rounds):
            runs = []
            for size, corpus in corpora:
                with Watch() as watch:
                    runs.append(_timed(dataclasses.replace(config, inputs=(corpus,), hop_s=hop_s), _job))
                peaks[size].append(watch.peak_bytes / 2**20)
                bar.update()
            for speeds, (short, few), (long, many) in zip(steps, runs, runs[1:], strict=False):
                speeds.append((many - few) / max(1e-9, long - short))
    names = [f"corpus of {small}x to {large}x" for small, large in itertools.pairwise(_SIZES)]
    memory = [
        dataclasses.replace(
            compared(f"corpus of {size}x: peak of a process", peaks[size], against="baseline", of=peaks[1]),
            unit="MiB",
            ratio=statistics.median(peaks[1]) / statistics.median(peaks[size]),
        )
        for size in _SIZES
    ]
    return [
        *(compared(name, step, against="baseline", of=steps[0]) for name, step in zip(names, steps, strict=True)),
        *memory,
    ]


def _multiplied(config: PreprocessConfig, size: int, *, folder: Path) -> str:
    """Writes a corpus of `size` copies of the first minutes; each copy starts one sample later than the one before."""
    base, seconds = discover(config.inputs).base, 0.0
    for number, track in enumerate(_plan(config).tracks):
        if seconds > _BASE_S:
            break
        path = os.path.join(base, track.path)
        with TrackReader(path) as reader:
            info = reader.info
            audio = reader.read(0, round(_BASE_S * info.sample_rate), rate=info.sample_rate)
        for copy in range(size):
            target = folder / f"corpus-{size}" / track.label / f"{number}-{copy}.wav"
            write_wav(target, audio[copy : min(len(audio), info.frames)], info.sample_rate)
        seconds += info.seconds
    return str(folder / f"corpus-{size}")


def _few_windows(config: PreprocessConfig) -> ShardPlan:
    """Plans one shard with the middle window of each of a few tracks."""
    shard = _plan(config).shards[0]
    step = max(1, len(shard.tracks) // _WINDOWS)
    tracks = tuple(
        dataclasses.replace(track, starts=(track.starts[len(track.starts) // 2],))
        for track in shard.tracks[::step][:_WINDOWS]
    )
    return dataclasses.replace(shard, tracks=tracks)


def _plan(config: PreprocessConfig) -> Plan:
    corpus = discover(config.inputs)
    scans = [scan_track(file, config) for file in corpus.files]
    return make_plan(scans, skipped=corpus.skipped, config=config)


def _hop_for(config: PreprocessConfig, *, examples: float) -> float:
    """Returns the hop between windows, s, with which the corpus gives about `examples` examples."""
    free = sum(max(0.0, track.seconds - config.spec.window_s) for track in _plan(config).tracks)
    return min(config.spec.window_s, max(0.01, free * len(SEMITONES) / examples))


def _repeated(plan: ShardPlan) -> ShardPlan:
    """Repeats the windows, so that opening and closing the shard takes a small part of the time."""
    tracks = tuple(dataclasses.replace(track, starts=track.starts * _REPEATS) for track in plan.tracks)
    return dataclasses.replace(plan, tracks=tracks)


def _write(plan: ShardPlan, config: PreprocessConfig) -> None:
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        write_shard(plan, config=config, folder=folder)


def _job(config: PreprocessConfig) -> int:
    return sum(shard.examples for shard in preprocess(config, quiet=True).shards)


def _timed(config: PreprocessConfig, step: Callable[[PreprocessConfig], int]) -> tuple[float, int]:
    """Returns how long a step took, in a fresh output folder, and how many examples it wrote."""
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        started = time.perf_counter()
        examples = step(dataclasses.replace(config, output=f"{folder}/data"))
        return time.perf_counter() - started, examples
