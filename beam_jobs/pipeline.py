"""The Beam pipeline, and the process that it runs in.

    files -> Reshuffle -> scan -> all scans in one place -> plan
          -> shard plans -> Reshuffle -> write_shard -> result

Only references travel between workers, never audio or features: whoever
writes a shard reads its windows again. `main` is started by
`beam_jobs.job.preprocess` as a process of its own, which can be ended at any
time and takes every worker with it.
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
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from beam_jobs import files, runners
from beam_jobs.corpus import AudioFile
from beam_jobs.job import Job, versions
from beam_jobs.metrics import Meter
from beam_jobs.plan import DUPLICATE, Plan, ShardPlan, input_digest, make_plan
from beam_jobs.reuse import SCANS, log_scan, overlapping, scan_line
from beam_jobs.scan import Scan, scan_track
from beam_jobs.shards import shard_path, write_shard
from tfpipe.data.manifest import MANIFEST, SKIPPED, SPLITS, TRACKS, Manifest, Shard, lines
from tfpipe.errors import TfpipeError, os_error_message
from tfpipe.files import remote

# Beam hands a worker's exception on as text; what a person should read stands in it as hex.
_FAILURE = re.compile(r"tfpipe-failure:([0-9a-f]*);")
_NAMESPACE = "tfpipe"
_Result = TypeVar("_Result")


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Puts the whole job on a pipeline; its last step writes `result.json` into the work folder."""
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
        job: what to do.
        at_end: gets what cancels the job on its cluster, while it runs there.

    Returns:
        What the job's meters counted, whatever the runner.

    Raises:
        TfpipeError: with the cause that a worker gave.
    """
    at_end = at_end or contextlib.ExitStack()
    options = runners.parse_options(job.pipeline_args)
    cancel = runners.canceller(options)
    try:
        pipeline = beam.Pipeline(runner=runners.local_runner(options, workers=job.config.workers), options=options)
        build(pipeline, job)
        with at_end:
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
    """Entry point of the job's process: a pickled `Job` on stdin, one JSON object on stdout."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)  # Beam has set it up
    job: Job = pickle.load(sys.stdin.buffer)
    at_end = contextlib.ExitStack()
    threading.Thread(target=_end_with_parent, args=[job, at_end], daemon=True).start()
    threading.excepthook = functools.partial(_on_thread_death, report)
    try:
        counts = run(job, at_end=at_end)
    except TfpipeError as error:
        _leave(report, {"error": str(error)})
    except OSError as error:
        _leave(report, {"error": os_error_message(error, job.config.output)})
    except BaseException as error:
        logging.exception("the job failed")
        if "Channel closed" in str(error):
            time.sleep(5.0)  # a worker died; the thread that watches it knows how, and leaves before this is over
        _leave(report, {"error": f"{type(error).__name__}: {_last_line(error)}; --verbose shows Beam's log"})
    _leave(report, {"counts": counts})


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
    """Returns what all meters gave to Beam's metrics."""
    found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    return {
        counter.key.metric.name: int(counter.attempted if counter.committed is None else counter.committed)
        for counter in found
    }


def _write_result(_: None, *, scans: Sequence[Scan], shards: Sequence[Shard], job: Job) -> None:
    """Leaves all that the manifest needs where the job's process finds it, whatever the runner."""
    plan = _plan(scans, job)
    hashes = [(scan.file, scan.hash) for scan in scans]
    lines = "".join(scan_line(scan) for scan in sorted(scans, key=lambda scan: scan.file))
    result = {"plan": plan, "shards": list(shards), "input": input_digest(hashes, job.corpus), "scans": lines}
    _guarded(_result_path(job), function=lambda path, _job: files.write(path, pickle.dumps(result)), job=job)


def _publish(job: Job) -> None:
    """Turns the work folder into the dataset, `dataset.json` last.

    Until here an older dataset in the folder was left whole.
    """
    result = pickle.loads(files.read(_result_path(job)))
    plan: Plan = result["plan"]
    shards = {shard.name: shard for shard in result["shards"]}
    output = functools.partial(FileSystems.join, job.config.output)
    manifest = Manifest(
        spec=job.config.spec,
        labels=plan.labels,
        shards=tuple(shards[name] for name in sorted(shards)),
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
    for shard in plan.shards:
        files.move(shard_path(job.work, shard), output(shard.name))
    files.write(output(TRACKS), lines(sorted(plan.tracks, key=lambda row: (SPLITS.index(row.split), row.hash))))
    files.write(output(SKIPPED), lines(list(plan.skipped)))
    files.write(output(SCANS), result["scans"].encode())
    files.write(output(MANIFEST), (json.dumps(manifest.to_dict(), indent=2, sort_keys=True) + "\n").encode())
    files.remove_folder(job.scratch)


def _result_path(job: Job) -> str:
    return FileSystems.join(job.work, "result.pickle")


def _guarded(element: Any, function: Callable[[Any, Job], _Result], job: Job) -> _Result:
    """Calls a step so that the cause of its failure survives the way through any runner."""
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
    """Reaches URLs with Beam's options, which the local runner does not hand to its worker processes."""
    if arguments:
        remote.use_options(arguments)


def _on_thread_death(report: TextIO, args: threading.ExceptHookArgs) -> None:
    """Ends the job when a worker process died: Beam would wait for it for ever."""
    threading.__excepthook__(args)
    if "Worker subprocess exited" in str(args.exc_value):
        time.sleep(2.0)  # a step that failed in the usual way is reported by then
        status = str(args.exc_value).rpartition(" ")[2]
        killed = status in ("-9", "137")
        cause = "killed, probably for want of memory" if killed else f"status {status}; --verbose shows Beam's log"
        _leave(report, {"error": f"a worker process died ({cause}); use fewer --workers and run the command again"})


def _end_with_parent(job: Job, at_end: contextlib.ExitStack) -> None:
    """Ends this process, its workers and its job on a cluster once the parent is gone or has closed the pipe."""
    sys.stdin.buffer.read()
    at_end.close()
    shutil.rmtree(os.path.dirname(job.counts), ignore_errors=True)  # the parent may no longer do it
    os.killpg(0, signal.SIGKILL)


def _leave(report: TextIO, outcome: Mapping[str, object]) -> NoReturn:
    """Reports and ends at once, workers included: Beam's threads would hold the process up."""
    report.write(json.dumps(outcome))
    report.close()
    os.killpg(0, signal.SIGKILL)
    raise SystemExit  # not reached


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no message")
