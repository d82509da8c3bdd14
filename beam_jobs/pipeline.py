"""The Beam pipeline, and the main function of the process that it runs in.

    files -> Reshuffle -> scan -> all scans in one place -> plan
          -> shard plans -> Reshuffle -> write_shard -> result

Only references travel between workers, never audio or features: the worker
that writes a shard reads its windows again. `beam_jobs.supervise` starts
`main` in a process of its own, which can be killed at any time together with
all its workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from beam_jobs import files, runners
from beam_jobs.corpus import AudioFile
from beam_jobs.loopback import ports_on_loopback
from beam_jobs.metrics import Meter
from beam_jobs.payload import Job
from beam_jobs.plan import DUPLICATE, Plan, ShardPlan, input_digest, make_plan
from beam_jobs.reuse import SCANS, log_scan, overlapping, scan_line
from beam_jobs.scan import Scan, scan_track
from beam_jobs.shards import shard_path, write_shard
from beam_jobs.versions import versions
from tfpipe.data.manifest import MANIFEST, SKIPPED, SPLITS, TRACKS, Manifest, Shard, lines, read_shard
from tfpipe.errors import TfpipeError, os_error_message
from tfpipe.files import remote

# Beam passes on a worker's exception as text; ours has the message for the user in it, as hex.
_FAILURE = re.compile(r"tfpipe-failure:([0-9a-f]*);")
# A line of a Java stack trace, with which the messages of Flink and Spark end.
_JAVA_FRAME = re.compile(r"(at )?[\w.$/<>]+\([^()]*\)|\.\.\. \d+ more")
_NAMESPACE = "tfpipe"
_Result = TypeVar("_Result")


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Adds the job's steps to a pipeline; the last one writes `result.json` into the work folder."""
    light = dataclasses.replace(job, corpus=dataclasses.replace(job.corpus, files=()), known={})
    scans = (
        pipeline
        | "Files" >> beam.Create([(file, job.known.get(file.path)) for file in job.corpus.files])
        | "ShareFiles" >> beam.Reshuffle()
        | "Scan" >> beam.Map(_guarded, function=_scan, job=light)
        | "AllScans" >> beam.combiners.ToList()
    )
    shards = (
        scans
        | "Plan" >> beam.FlatMap(_guarded, function=_shard_plans, job=light)
        | "ShareShards" >> beam.Reshuffle()
        | "WriteShards" >> beam.Map(_guarded, function=_write, job=light)
        | "AllShards" >> beam.combiners.ToList()
    )
    inputs = {"scans": beam.pvalue.AsSingleton(scans), "shards": beam.pvalue.AsSingleton(shards)}
    _ = pipeline | "Once" >> beam.Create([None]) | "Result" >> beam.Map(_write_result, job=light, **inputs)


def run(job: Job, *, at_end: contextlib.ExitStack | None = None) -> dict[str, int]:
    """Runs the pipeline and puts the dataset together.

    Args:
        job: the job.
        at_end: holds, while the job runs, a callback that cancels it on its cluster.

    Returns:
        What the job's meters counted, on any runner.

    Raises:
        TfpipeError: a worker failed; the message is the worker's.
    """
    at_end = at_end or contextlib.ExitStack()
    options = runners.parse_options(job.pipeline_args)
    cancel = runners.canceller(options)
    try:
        here = runners.local_runner(options, workers=job.config.workers)
        pipeline = beam.Pipeline(runner=here, options=options)
        build(pipeline, job)
        with at_end, ports_on_loopback():
            result = pipeline.run()
            at_end.callback(cancel, result)
            result.wait_until_finish()
            at_end.pop_all()
    except Exception as error:
        if (reported := _FAILURE.search(str(error))) is None:
            raise
        raise TfpipeError(bytes.fromhex(reported[1]).decode("utf-8", "surrogateescape")) from error
    _publish(job)
    return _counters(result)


def main() -> NoReturn:
    """Main function of the job's process: reads a pickled `Job` from stdin and writes one JSON object to stdout."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # `force` because Beam has configured logging already.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    job: Job = pickle.load(sys.stdin.buffer)
    at_end = contextlib.ExitStack()
    threading.Thread(target=_end_with_parent, args=[job, at_end], daemon=True).start()
    threading.excepthook = functools.partial(_on_thread_death, report)
    try:
        counts = run(job, at_end=at_end)
    except TfpipeError as error:
        _end(report, {"error": str(error)})
    except OSError as error:
        _end(report, {"error": os_error_message(error, job.config.output)})
    except BaseException as error:
        logging.exception("the job failed")
        if "Channel closed" in str(error):
            time.sleep(5.0)  # a worker died; meanwhile _on_thread_death reports how and ends this process
        _end(report, {"error": f"{type(error).__name__}: {_last_line(error)}; --verbose shows Beam's log"})
    _end(report, {"counts": counts})


def _scan(element: tuple[AudioFile, Scan | None], job: Job) -> Scan:
    file, known = element
    with _meter(job) as meter:
        scan = scan_track(file, job.config, known=known, meter=meter)
        meter.count("files")
        meter.count("audio_ms", round(scan.seconds * 1000))
        if scan.skipped is not None:
            meter.skip(scan.skipped.code)
    if not job.config.is_remote:
        log_scan(job.scratch, job.scan_digest, scan)
    return scan


def _shard_plans(scans: Sequence[Scan], job: Job) -> tuple[ShardPlan, ...]:
    plan = _plan(scans, job)
    with _meter(job) as meter:
        meter.count("planned", plan.examples)
        meter.count("silent", sum(track.silent for track in plan.tracks))
        for row in plan.skipped:
            if row.code == DUPLICATE:
                meter.skip(row.code)
        for row in job.corpus.skipped:
            meter.skip(row.code)
    return plan.shards


def _write(plan: ShardPlan, job: Job) -> Shard:
    sources = overlapping(job.sources, *plan.keys)
    with _meter(job) as meter:
        return write_shard(plan, config=job.config, folder=job.work, sources=sources, meter=meter)


def _plan(scans: Iterable[Scan], job: Job) -> Plan:
    return make_plan(scans, config=job.config, skipped=job.corpus.skipped, splits=job.corpus.splits)


def _meter(job: Job) -> Meter:
    return Meter(job.counts, lambda name, number: Metrics.counter(_NAMESPACE, name).inc(number))


def _counters(result: PipelineResult) -> dict[str, int]:
    """Returns the counts that all meters gave to Beam's metrics."""
    found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    return {
        counter.key.metric.name: int(counter.attempted if counter.committed is None else counter.committed)
        for counter in found
    }


def _write_result(_: None, *, scans: Sequence[Scan], shards: Sequence[Shard], job: Job) -> None:
    """Writes all that the dataset needs into the work folder, where the job's process can read it on any runner.

    It is JSON: whoever can write into the output folder must not be able to run code in the job's process.
    """
    plan = _plan(scans, job)
    tracks = sorted(plan.tracks, key=lambda row: (SPLITS.index(row.split), row.hash))
    result = {
        "labels": list(plan.labels),
        "shards": [dataclasses.asdict(shard) for shard in sorted(shards, key=lambda shard: shard.name)],
        "made": {shard.name: shard.digest for shard in plan.shards},
        "input": input_digest([(scan.file, scan.hash) for scan in scans], job.corpus),
        TRACKS: lines(tracks).decode(),
        SKIPPED: lines(list(plan.skipped)).decode(),
        SCANS: "".join(scan_line(scan) for scan in sorted(scans, key=lambda scan: scan.file)),
    }
    content = json.dumps(result).encode()
    _guarded(_result_path(job), function=lambda path, _job: files.write(path, content), job=job)


def _publish(job: Job) -> None:
    """Turns the work folder into the dataset; `dataset.json` is written last.

    An older dataset in the output folder stays complete until this step.
    """
    result = json.loads(files.read(_result_path(job)))
    output = functools.partial(remote.join, job.config.output)
    manifest = Manifest(
        spec=job.config.spec,
        labels=tuple(result["labels"]),
        shards=tuple(read_shard(shard) for shard in result["shards"]),
        config={
            **job.config.to_dict(),
            "digest": job.config.digest,
            "example_digest": job.example_digest,
            "scan_digest": job.scan_digest,
            "input": result["input"],
            "base": job.corpus.base,
        },
        versions=versions(),
    )
    files.remove(output(MANIFEST))
    for name in files.shard_names(job.config.output):
        files.remove(output(name))
    for shard in manifest.shards:
        files.move(shard_path(job.work, result["made"][shard.name]), output(shard.name))
    for name in (TRACKS, SKIPPED, SCANS):
        files.write(output(name), result[name].encode())
    files.write(output(MANIFEST), (json.dumps(manifest.to_dict(), indent=2, sort_keys=True) + "\n").encode())
    files.remove_folder(job.scratch)


def _result_path(job: Job) -> str:
    return remote.join(job.work, "result.json")


def _guarded(element: Any, function: Callable[[Any, Job], _Result], job: Job) -> _Result:
    """Calls a step; if it fails, raises an exception whose text keeps the message through any runner."""
    try:
        _use_options(job.pipeline_args)
        return function(element, job)
    except TfpipeError as error:
        cause = str(error)
    except OSError as error:
        cause = os_error_message(error, job.config.output)
    except MemoryError:
        cause = "a worker ran out of memory; use fewer --workers or a machine with more memory"
    raise RuntimeError(f"tfpipe-failure:{cause.encode('utf-8', 'surrogateescape').hex()};")


@functools.cache
def _use_options(arguments: tuple[str, ...]) -> None:
    """Applies Beam's options for reaching URLs, which the local runner does not pass to its worker processes."""
    if arguments:
        remote.use_options(arguments)


def _on_thread_death(report: TextIO, args: threading.ExceptHookArgs) -> None:
    """Ends the job after a worker process has died, because Beam would wait for it forever."""
    threading.__excepthook__(args)
    if "Worker subprocess exited" in str(args.exc_value):
        time.sleep(2.0)  # if a step failed in the usual way, it is reported in this time
        status = str(args.exc_value).rpartition(" ")[2]
        killed = status in ("-9", "137")
        cause = "killed, probably for lack of memory" if killed else f"status {status}; --verbose shows Beam's log"
        _end(report, {"error": f"a worker process died ({cause}); use fewer --workers and run the command again"})


def _end_with_parent(job: Job, at_end: contextlib.ExitStack) -> None:
    """Waits until the parent has ended or closed the pipe, then ends the job on its cluster and all processes."""
    sys.stdin.buffer.read()
    at_end.close()
    shutil.rmtree(os.path.dirname(job.counts), ignore_errors=True)  # a killed parent cannot do it
    os.killpg(0, signal.SIGKILL)


def _end(report: TextIO, outcome: Mapping[str, object]) -> NoReturn:
    """Reports the outcome and kills this process and its workers, because Beam's threads could delay a normal end."""
    report.write(json.dumps(outcome))
    report.close()
    os.killpg(0, signal.SIGKILL)
    raise SystemExit  # not reached


def _last_line(error: BaseException) -> str:
    """Returns the last line of a message that is no line of a Java stack trace."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line and not _JAVA_FRAME.fullmatch(line)), "no message")
