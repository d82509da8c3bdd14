"""The Beam pipeline, and the main function of the process that it runs in.

    blocks of files -> Reshuffle -> scan -> plan (`beam_jobs.planning`)
                    -> shard plans -> write_shard -> shards.json

Only references travel between workers, never audio or features. A scan keeps
the examples of its windows in a folder (`beam_jobs.early`); the worker that writes a shard
copies them, or reads its windows again if it cannot find them there. `beam_jobs.supervise` starts
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
from collections.abc import Mapping, Sequence
from typing import NoReturn, TextIO

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.runner import PipelineResult

from beam_jobs import files, parts, runners
from beam_jobs.corpus import AudioFile
from beam_jobs.early import EarlyExamples
from beam_jobs.loopback import ports_on_loopback
from beam_jobs.payload import Block, Job
from beam_jobs.plan import ShardPlan
from beam_jobs.planning import plan_shards
from beam_jobs.publish import publish
from beam_jobs.reuse import log_scan, overlapping
from beam_jobs.scan import Scan, scan_track
from beam_jobs.shards import write_shard
from beam_jobs.sifting import Numbered
from beam_jobs.steps import NAMESPACE, failure_in, guarded, meter
from beam_jobs.tally import tally_of
from tfpipe.data.manifest import Shard
from tfpipe.errors import TfpipeError, os_error_message

# Messages of Flink and Spark end with a Java stack trace. This pattern matches one line of such a trace.
_JAVA_FRAME = re.compile(r"(at )?[\w.$/<>]+\([^()]*\)|\.\.\. \d+ more")


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Adds the steps of a job to a pipeline; the last one writes `shards.json` into the plan folder.

    Args:
        pipeline: the pipeline.
        job: the job, whose files are in the plan folder (`beam_jobs.parts.stage`).
    """
    # Each step gets only what it needs of the job, because the description of a pipeline must stay small.
    corpus = dataclasses.replace(job.corpus, skipped=(), splits={})
    light = dataclasses.replace(job, corpus=corpus, sources=(), blocks=(), split_blocks=())
    scanning = dataclasses.replace(light, corpus=dataclasses.replace(corpus, splits=job.corpus.splits))
    writing = dataclasses.replace(light, sources=job.sources)
    scans = (
        pipeline
        | "Files" >> beam.Create(job.blocks)
        | "ShareFiles" >> beam.Reshuffle()
        | "Scan" >> beam.FlatMap(guarded, function=scan_block, job=scanning)
    )
    _ = (
        plan_shards(scans, light, split_blocks=job.split_blocks, left_out=tally_of(job.corpus.skipped))
        | "WriteShards" >> beam.Map(guarded, function=write, job=writing)
        | "AllShards" >> beam.combiners.ToList()
        | "Result" >> beam.Map(guarded, function=write_result, job=light)
    )


def run(job: Job, *, at_end: contextlib.ExitStack | None = None) -> dict[str, int]:
    """Runs the pipeline and puts the dataset together.

    Args:
        job: the job, whose files are in the plan folder (`beam_jobs.parts.stage`).
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
        if (message := failure_in(error)) is None:
            raise
        raise TfpipeError(message) from error
    publish(job)
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


def scan_block(block: Block, job: Job) -> list[Numbered]:
    """Scans the files of a block, and writes what is known of them into the plan folder."""
    scans = [(number, _scan(file, known, job)) for number, file, known in parts.read_files(job, block)]
    parts.write_scans(job, block, (scan for _, scan in scans))
    return scans


def _scan(file: AudioFile, known: Scan | None, job: Job) -> Scan:
    with meter(job) as counts:
        scan = scan_track(file, job.config, known=known, early=_early(job), meter=counts)
        counts.count("files")
        counts.count("audio_ms", round(scan.seconds * 1000))
        if scan.skipped is not None:
            counts.skip(scan.skipped.code)
    if not job.config.is_remote:
        log_scan(job.scratch, job.scan_digest, scan)
    return scan


def write(plan: ShardPlan, job: Job) -> tuple[str, Shard]:
    """Writes a shard; returns the digest of its plan, which names its file, and what it holds."""
    sources = overlapping(job.sources, *plan.keys)
    with meter(job) as counts:
        shard = write_shard(plan, config=job.config, folder=job.work, sources=sources, early=_early(job), meter=counts)
    return plan.digest, shard


def _early(job: Job) -> EarlyExamples | None:
    if job.least_free is None:
        return None
    return EarlyExamples(
        folder=job.early_folder, config=job.config, least_free=job.least_free, splits=job.corpus.splits
    )


def write_result(shards: Sequence[tuple[str, Shard]], job: Job) -> None:
    """Writes the list of shards, in the order of the dataset, where the job's process can read it on any runner."""
    rows = [(made, dataclasses.asdict(shard)) for made, shard in sorted(shards, key=lambda row: row[1].name)]
    files.write(parts.part(job, parts.SHARDS), json.dumps(rows).encode())


def _counters(result: PipelineResult) -> dict[str, int]:
    """Returns the counts that all meters gave to Beam's metrics."""
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    return {
        counter.key.metric.name: int(counter.attempted if counter.committed is None else counter.committed)
        for counter in found
    }


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
