"""`tfpipe bench plan`: plans corpora of many tracks with the job's own pipeline, without any audio.

The scans are made up: each track has 30 s and six windows, one file in 100 is a copy of its neighbour, and one in 100
is too short. Everything else is the job: the list of files is written, workers read it in blocks, the plan is made in
Beam, and its rows are put together as for publication. No shard is written. The pipeline has a process of its own, as
in a job.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from beam_jobs import files, parts
from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile, Corpus
from beam_jobs.payload import Block, Job
from beam_jobs.scan import Scan
from tfpipe.bench.compare import Result
from tfpipe.bench.watch import Watch
from tfpipe.data.manifest import Skipped
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.files import remote
from tfpipe.process import children
from tfpipe.process.progress import Progress

_CHILD = "from tfpipe.bench.plan import main; main()"
_WINDOWS, _WINDOW = 6, 110_250
# One file in so many is a copy, and one is too short.
_ODD = 100

_UNITS = {
    "time": "s",
    "CPU time": "s",
    "shards": "shards",
    "text between steps": "bytes/track",
    "list of files: CPU time": "s",
    "peak of the pipeline's process": "MiB",
    "peak of a worker": "MiB",
}


def bench_plan(sizes: Sequence[int], *, labels: int, workers: int, rounds: int) -> list[Result]:
    """Measures the time and the memory of planning.

    Args:
        sizes: numbers of tracks.
        labels: labels of each corpus, or fewer if it has fewer tracks.
        workers: processes of the runner.
        rounds: how often each size is planned; the medians are returned.

    Returns:
        For each size the seconds, the CPU seconds of all processes, the shards, the bytes of text that steps write for
        each other, the CPU seconds for the list of files, and the peak memory of the pipeline's process and of the
        largest worker.

    Raises:
        UsageError: a number is too small.
        TfpipeError: the pipeline failed.
    """
    if min([*sizes, labels, workers, rounds]) < 1:
        raise UsageError("--tracks, --labels, --workers and --rounds must be at least 1")
    results = []
    with Progress("plan", total=rounds * len(sizes), unit="plan") as bar:
        for size in sizes:
            found: list[dict[str, float]] = []
            for _ in range(rounds):
                found.append(_measure(size, labels=min(labels, size), workers=workers))
                bar.update()
            for name, unit in _UNITS.items():
                value = statistics.median(row[name] for row in found)
                results.append(Result(name=f"{size} tracks: {name}", value=value, unit=unit))
    return results


def _measure(size: int, *, labels: int, workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as folder:
        config = PreprocessConfig(inputs=("in",), output=folder, workers=workers)
        corpus = Corpus(base="/corpus", files=tuple(_file(number, size, labels) for number in range(size)))
        begun = time.process_time()
        job = parts.stage(Job(config=config, corpus=corpus))
        staged_s = time.process_time() - begun
        del corpus
        started = time.monotonic()
        with tempfile.TemporaryFile() as log, Watch() as watch:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=children.environment(),
            )
            out, _ = process.communicate(pickle.dumps(job))
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
        seconds = time.monotonic() - started
        if process.returncode:
            why = said[-1] if said else "no message"
            raise TfpipeError(f"the pipeline of the benchmark ended with status {process.returncode}: {why}")
        written = sum(remote.sizes(job.plan_folder).values())
    told = json.loads(out)
    short, copies = (size + _ODD - _ODD // 2 - 1) // _ODD, size // _ODD
    if told["tracks"] != size - short - copies:
        raise TfpipeError(f"the plan has {told['tracks']} tracks of {size} files; this is an error of tfpipe")
    workers_peak = max((peak for number, peak in watch.peaks.items() if number != process.pid), default=0)
    return {
        "time": seconds,
        "CPU time": sum(watch.cpu_s.values()),
        "shards": told["shards"],
        "text between steps": written / size,
        "list of files: CPU time": staged_s,
        "peak of the pipeline's process": watch.peaks.get(process.pid, 0) / 2**20,
        "peak of a worker": workers_peak / 2**20,
    }


def main() -> None:
    """Main function of the pipeline's process: reads a pickled `Job` from stdin and writes one JSON object."""
    import apache_beam as beam

    from beam_jobs import publish, runners
    from beam_jobs.loopback import ports_on_loopback
    from beam_jobs.planning import plan_shards
    from beam_jobs.steps import guarded
    from beam_jobs.tally import Tally

    job: Job = pickle.load(sys.stdin.buffer)
    options = runners.parse_options([])
    light = dataclasses.replace(job, blocks=())
    pipeline = beam.Pipeline(runner=runners.local_runner(options, workers=job.config.workers), options=options)
    scans = (
        pipeline
        | "Files" >> beam.Create(job.blocks)
        | "ShareFiles" >> beam.Reshuffle()
        | "MakeScans" >> beam.FlatMap(guarded, function=_scan_block, job=light)
    )
    _ = (
        plan_shards(scans, light, split_blocks=(), left_out=Tally())
        | "Digests" >> beam.Map(lambda plan: (plan.digest, plan.examples))
        | "AllShards" >> beam.combiners.ToList()
        | "Result" >> beam.Map(guarded, function=_write_shards, job=light)
    )
    with ports_on_loopback():
        pipeline.run().wait_until_finish()
    names = sorted(remote.sizes(job.plan_folder))
    publish.write_rows(job, names)
    with remote.open_read(parts.part(job, "tracks.jsonl")) as file:
        tracks = sum(1 for _ in file)
    print(json.dumps({"shards": len(parts.read_json(job, parts.SHARDS)), "tracks": tracks}))


def _write_shards(shards: Sequence[tuple[str, int]], job: Job) -> None:
    files.write(parts.part(job, parts.SHARDS), json.dumps(sorted(shards)).encode())


def _file(number: int, size: int, labels: int) -> AudioFile:
    label = f"label-{number * labels // size:07d}"
    name = f"{label}/recording-{number:09d}.wav"
    return AudioFile(name, f"/corpus/{name}", label)


def _scan_block(block: Block, job: Job) -> list[tuple[int, Scan]]:
    scans = [(number, _scan(number, file)) for number, file, _ in parts.read_files(job, block)]
    parts.write_scans(job, block, (scan for _, scan in scans))
    return scans


def _scan(number: int, file: AudioFile) -> Scan:
    content = number - 1 if number % _ODD == _ODD - 1 else number
    digest = hashlib.sha256(str(content).encode()).hexdigest()
    stamp = (1_323_044 + number % 1000, 1_700_000_000_000_000_000 + 1_000_003 * number)
    if number % _ODD == _ODD // 2:
        skipped = Skipped(path=file.name, code="too_short", message=f"{file.path}: shorter than one window")
        return Scan(file=file, hash=digest, stamp=stamp, skipped=skipped)
    starts = tuple(range(0, _WINDOWS * _WINDOW, _WINDOW))
    return Scan(file=file, hash=digest, stamp=stamp, seconds=30.0 + number % 997 / 1000, starts=starts)
