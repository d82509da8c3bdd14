"""Small corpora of synthesised notes, and jobs that run in the test's own process."""

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from beam_jobs import parts, pipeline
from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import discover
from beam_jobs.metrics import Counts
from beam_jobs.parts import stage
from beam_jobs.payload import Job
from beam_jobs.plan import make_plan
from beam_jobs.reuse import recorded_scans, salvage, with_earlier
from beam_jobs.sifting import input_splits
from tfpipe.data.manifest import MANIFEST, SPLITS, load_manifest
from tfpipe.files.remote import exists, join
from tfpipe.spec import FeatureSpec

# Short windows are cheap; everything else is like the default.
SMALL = FeatureSpec(sample_rate=16_000, window_s=0.5, n_fft=1024, hop=256, n_mels=40, fmin=100.0)


def note(hz, seconds, rate, *, seed=0, level=0.3):
    """Returns the sound of a plucked string: decaying harmonics and a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    partials = [np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 9) if hz * k < rate / 2]
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    return level * (np.sum(partials, axis=0) * np.exp(-1.5 * time) / 2 + noise)


def write_corpus(folder, *, tracks=6, seconds=2.2, rate=16_000):
    """Writes `tracks` files under each of two labels."""
    for label, base in (("Human", 180.0), ("Piano", 330.0)):
        (folder / label).mkdir(parents=True)
        for index in range(tracks):
            audio = note(base * 2 ** (index / 12), seconds, rate, seed=index)
            soundfile.write(folder / label / f"{index}.wav", audio, rate)
    return folder


def write_wav(path):
    """Writes one second of sound and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, note(220, 1, 8000), 8000, format="WAV")
    return path


def spec_options(**changes):
    """Returns the command-line options that give the features of `SMALL`."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL.to_dict(), **changes}.items()]


def config_for(corpus, output, **changes):
    inputs = (str(corpus),) if isinstance(corpus, str | Path) else tuple(map(str, corpus))
    values = {"spec": SMALL, "shard_bytes": 2**16, **changes}
    return PreprocessConfig(inputs=inputs, output=str(output), **values)


def run_here(config):
    """Runs the pipeline in this process and returns the manifest; skips the checks of `preprocess`."""
    pipeline.run(stage(_job(config)))
    return load_manifest(config.output)


def run_without_beam(config):
    """Like `run_here`, but calls the steps one after the other; Beam takes most of a short job's time."""
    count_without_beam(config)
    return load_manifest(config.output)


def count_without_beam(config):
    """Like `run_without_beam`, but returns the job's counts."""
    with tempfile.TemporaryDirectory() as folder:
        job = stage(dataclasses.replace(_job(config), counts=folder))
        scans = [row for block in job.blocks for row in pipeline.scan_block(block, job)]
        kept = dict(row for block in job.split_blocks for row in parts.read_splits(job, block))
        plan = make_plan([scan for _, scan in scans], config=config, skipped=job.corpus.skipped, splits=kept)
        write_plan(plan, scans, kept, job)
        pipeline.write_result([pipeline.write(shard, job) for shard in plan.shards], job)
        pipeline.publish(job)
        return Counts(folder).read()


def write_plan(plan, scans, kept, job):
    """Writes what the steps of the pipeline write into the plan folder; the publication needs it."""
    for split in SPLITS:
        tracks = sorted((row for row in plan.tracks if row.split == split), key=lambda row: row.hash)
        parts.write_rows(job, f"tracks-{split}-0000.jsonl", parts.row_lines(tracks))
    early = {row.path for row in job.corpus.skipped}
    late = [row for row in plan.skipped if row.path not in early]
    parts.write_rows(job, "skipped-0000.jsonl", parts.row_lines(late))
    rows = input_splits([(scan.hash, scan.file.split) for _, scan in scans], kept)
    parts.write_rows(job, "kept-0000.jsonl", (parts.split_row(*row) for row in rows))
    parts.write_plan(job, plan.labels)


def _job(config):
    job = Job(config=config, corpus=discover(config.inputs, groups=config.groups, splits_from=config.splits_from))
    salvage(job)
    earlier = load_manifest(config.output) if exists(join(config.output, MANIFEST)) else None
    return with_earlier(job, earlier, recorded_scans(config) if earlier else [])


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.tfrecord")}


def last_line(capsys):
    """Returns the last line of stderr, where no traceback may be."""
    lines = capsys.readouterr().err.splitlines()
    assert not [line for line in lines if "Traceback" in line]
    return lines[-1]


def fetched(script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Runs `scripts/... get`, which downloads an engine once; skips the test if it cannot be had."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    got = script("get")
    if "cannot be reached" in got.stderr:
        pytest.skip(got.stderr.strip().splitlines()[-1])
    assert got.returncode == 0, got.stderr
