"""The preprocessing job: a corpus in, a complete dataset folder out, or one line that says why not.

The Beam pipeline (`beam_jobs.pipeline`) runs in a process of its own. This
side holds the folder's lock, feeds the progress bar and ends everything on
Ctrl-C. Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import json
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import soundfile

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile, Corpus, discover
from beam_jobs.metrics import Counts, profile, skipped
from beam_jobs.plan import input_digest
from beam_jobs.reuse import (
    PART,
    SCANS,
    Source,
    left_behind,
    logged_scans,
    match_scans,
    read_scans,
    sources_of,
)
from beam_jobs.scan import Scan, content_hash, file_stamp
from beam_jobs.variants import cached_augmenter
from tfpipe import __version__
from tfpipe.data.manifest import MANIFEST, SKIPPED, TRACKS, Manifest, load_manifest
from tfpipe.errors import AudioError, TfpipeError, translate_os_errors
from tfpipe.files import remote
from tfpipe.files.remote import open_read
from tfpipe.files.storage import digest, folder_lock
from tfpipe.process import children
from tfpipe.process.progress import Progress

_POLL_S = 0.2
_HASHERS = 8
_END_S = 15.0  # to cancel a job on its cluster
_CHILD = "from beam_jobs.pipeline import main; main()"
# Their versions are noted in the manifest; all but the last two can change a shard's bytes.
_TOOLS = ("tfpipe", "librosa", "numpy", "scipy", "soundfile", "soxr", "libsndfile", "av", "apache-beam", "python")


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the job's process needs; travels there and to the workers as a pickle.

    Attributes:
        config: what to do.
        corpus: the files; workers get it without them.
        pipeline_args: options for Beam, as on a command line.
        known: by path, what an earlier job found in a file that may still be the same.
        sources: where examples of the same settings and tools may stand already.
        counts: folder on the command's machine for what workers count.
    """

    config: PreprocessConfig
    corpus: Corpus
    pipeline_args: tuple[str, ...] = ()
    known: Mapping[str, Scan] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    counts: str = ""

    @property
    def scratch(self) -> str:
        """Folder for everything that is not yet the dataset."""
        return remote.join(self.config.output, ".work")

    @property
    def work(self) -> str:
        """The part of it for shards of these settings and tools."""
        return remote.join(self.scratch, self.example_digest)

    @functools.cached_property
    def example_digest(self) -> str:
        """16 hex digits over all, but the recording, that an example's bytes depend on."""
        return digest([self.config.example_digest, _tools()])

    @functools.cached_property
    def scan_digest(self) -> str:
        """16 hex digits over all, but the file, that a scan depends on."""
        return digest([self.config.scan_digest, _tools()])


def preprocess(
    config: PreprocessConfig, *, pipeline_args: Sequence[str] = (), quiet: bool = False, verbose: bool = False
) -> Manifest:
    """Turns a corpus into a dataset folder.

    A complete dataset of the same settings and the same files is left as it
    is; one of the same settings and other files is replaced once the new one
    is ready. What a dataset there, or a job that was killed, has already
    found and computed is taken over where nothing about it has changed.

    Args:
        config: what to do.
        pipeline_args: Beam options; `--runner` and its options for a cluster.
        quiet: show no progress.
        verbose: let Beam's log through to stderr.

    Raises:
        TfpipeError: no usable audio, too much of it skipped, a dataset of
            other settings in the way, disk full, a worker died, ...
    """
    if not config.is_remote:
        config = dataclasses.replace(config, output=os.path.abspath(config.output))  # workers have other folders
    for split in ("train", "test"):
        cached_augmenter(config.spec, config.variants(split), config.engine)  # refuses impossible shifts now
    if pipeline_args:
        remote.use_options(pipeline_args)
    corpus = discover(config.inputs, groups=config.groups, splits_from=config.splits_from)
    job = Job(config=config, corpus=corpus, pipeline_args=tuple(pipeline_args))
    started = time.monotonic()
    with _held(config.output):
        manifest = _standing(config)
        recorded = recorded_scans(config) if manifest is not None else []
        if manifest is not None and _is_current(job, manifest, recorded, quiet=quiet):
            if not quiet:
                print(f"{config.output}: already holds this dataset; nothing to do", file=sys.stderr)
            return manifest
        salvage(job)
        counts = _supervise(with_earlier(job, manifest, recorded), quiet=quiet, verbose=verbose)
        manifest = _existing(config)
    if manifest is None:
        raise TfpipeError(f"{config.output}: the job ended without a {MANIFEST}; run it again with --verbose")
    if not quiet:
        print(profile(counts, time.monotonic() - started), file=sys.stderr)
    return manifest


def versions() -> dict[str, str]:
    """Returns the versions of the tools that make a dataset."""
    found = {"libsndfile": soundfile.__libsndfile_version__, "python": platform.python_version(), "tfpipe": __version__}
    return {name: found.get(name) or importlib.metadata.version(name) for name in _TOOLS}


def _tools() -> list[str]:
    found = versions()
    return [found[name] for name in _TOOLS[:-2]]


def _held(output: str) -> contextlib.AbstractContextManager[None]:
    """Keeps other jobs out of the output folder."""
    if not remote.is_remote(output):
        return folder_lock(Path(output), what="preprocessing job")
    from beam_jobs import files  # brings Beam, which local paths do without here

    return files.held(output, what="preprocessing job")


def _existing(config: PreprocessConfig) -> Manifest | None:
    """Returns the manifest of the dataset that stands in the output folder, if one does."""
    return load_manifest(config.output) if remote.exists(remote.join(config.output, MANIFEST)) else None


def _standing(config: PreprocessConfig) -> Manifest | None:
    """Returns the manifest in the output folder, unless there is none, or a damaged one that may be replaced.

    Raises:
        TfpipeError: it is damaged, or of other settings, and may not be replaced.
    """
    try:
        manifest = _existing(config)
    except TfpipeError as error:
        if config.overwrite:
            return None
        raise TfpipeError(f"{error}; use --overwrite to make it anew") from error
    if manifest is not None and manifest.config.get("digest") != config.digest and not config.overwrite:
        raise TfpipeError(
            f"{config.output}: holds a dataset made with other settings ({_differences(manifest, config)}); "
            "use --overwrite to replace it, or another --output"
        )
    return manifest


def _is_current(job: Job, manifest: Manifest, recorded: Sequence[Scan], *, quiet: bool) -> bool:
    """Tells whether a dataset is what the job would make."""
    if manifest.config.get("digest") != job.config.digest or not _is_whole(manifest, job.config):
        return False
    return manifest.config.get("input") == _input_digest(job.corpus, recorded, quiet=quiet)


def _is_whole(manifest: Manifest, config: PreprocessConfig) -> bool:
    """Tells whether every file is there, shards with their size; `tfpipe verify` looks at every byte."""
    found = remote.sizes(config.output)
    return {TRACKS, SKIPPED} <= set(found) and all(found.get(shard.name) == shard.bytes for shard in manifest.shards)


def recorded_scans(config: PreprocessConfig) -> list[Scan]:
    """Returns what the dataset in the output folder knows of its files; nothing where that is lost."""
    try:
        with io.TextIOWrapper(open_read(remote.join(config.output, SCANS)), encoding="utf-8") as file:
            return list(read_scans(file))
    except OSError:
        return []


def _input_digest(corpus: Corpus, recorded: Sequence[Scan], *, quiet: bool) -> str:
    """Returns the digest of the files as they are now, or nothing as soon as a file cannot be what it was."""
    known = {scan.file.path: scan for scan in recorded}

    def content(file: AudioFile) -> str | None:
        scan = known.get(file.path)
        if known and scan is None:
            return None
        try:
            stamp = file_stamp(file.path)
            changed = scan is not None and scan.hash and stamp[0] != scan.stamp[0]
            return None if changed else content_hash(file.path, stamp, scan)
        except AudioError:
            return ""

    rows = []
    with (
        Progress("compare", total=len(corpus.files), unit="file", quiet=quiet) as bar,
        ThreadPoolExecutor(_HASHERS) as pool,
    ):
        for file, found in zip(corpus.files, pool.map(content, corpus.files), strict=True):
            if found is None:
                pool.shutdown(wait=False, cancel_futures=True)
                return ""
            rows.append((file, found))
            bar.update()
    return input_digest(rows, corpus)


def _differences(manifest: Manifest, config: PreprocessConfig) -> str:
    old, new = manifest.config, json.loads(json.dumps(config.to_dict()))
    names = [name for name in new if name in old and old[name] != new[name] and name not in ("inputs", "output")]
    return ", ".join(names) or "by another version of tfpipe"


def salvage(job: Job) -> None:
    """Keeps what a killed job left that is of use now, and removes the rest."""
    if job.config.is_remote:
        from beam_jobs import files

        files.remove_unfinished(job.config.output, job.work)
        return
    work, scratch = Path(job.work), Path(job.scratch)
    with translate_os_errors(scratch):
        work.mkdir(parents=True, exist_ok=True)
        for path in scratch.iterdir():
            if path.is_dir() and path != work:
                shutil.rmtree(path)
        for path in work.glob("*.tmp-*"):
            name = path.name.removeprefix(".").partition(".tmp-")[0]
            part = path.with_name(f"{name.partition('.')[0]}{PART}")
            if name.endswith(".tfrecord") and _size(path) > _size(part):
                path.replace(part)
            else:
                path.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def with_earlier(job: Job, manifest: Manifest | None, recorded: Sequence[Scan]) -> Job:
    """Adds what the dataset in the output folder, and killed jobs, have already found and computed."""
    config, made = job.config, manifest.config if manifest else {}
    scans: list[Scan] = []
    sources: list[Source] = []
    if manifest and made.get("scan_digest") == job.scan_digest:
        scans += recorded
    if manifest and made.get("example_digest") == job.example_digest:
        sources += sources_of(manifest, config.output)
    if not config.is_remote:
        scans += logged_scans(job.scratch, job.scan_digest)
        sources += left_behind(Path(job.work), config.spec.mel_shape)
    return dataclasses.replace(job, known=match_scans(scans, job.corpus.files), sources=tuple(sources))


def _supervise(job: Job, *, quiet: bool, verbose: bool) -> dict[str, int]:
    """Runs the pipeline's process to its end, or ends it with this one.

    Returns:
        What its workers counted.

    Raises:
        TfpipeError: the cause that it reports, or what can be said of its death.
    """
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryFile() as report,
        tempfile.TemporaryDirectory(prefix="tfpipe-") as scratch,
    ):
        job = dataclasses.replace(job, counts=f"{scratch}/counts")
        os.mkdir(job.counts)
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=report,
            stderr=None if verbose else log,
            env={**children.environment(), "TMPDIR": scratch},  # Beam leaves folders behind
            start_new_session=True,
        )
        try:
            _send(job, process)
            waited = _watch(process, job, quiet=quiet)
        finally:
            _end(process)
        outcome = json.loads(_content(report) or "null")
        if outcome is None:
            raise TfpipeError(_death(process.returncode, _content(log)))
    if "error" in outcome:
        raise TfpipeError(outcome["error"])
    return {**outcome["counts"], "start_ms": round(waited * 1000)}


def _send(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Hands the job over. The pipe stays open: its end tells the process that this one is gone."""
    with contextlib.suppress(BrokenPipeError):
        stdin = cast(IO[bytes], process.stdin)
        pickle.dump(job, stdin)
        stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its workers; the end of the pipe lets it cancel what runs on a cluster first."""
    try:
        with contextlib.suppress(BrokenPipeError):
            cast(IO[bytes], process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _watch(process: subprocess.Popen[bytes], job: Job, *, quiet: bool) -> float:
    """Shows progress until the process has ended; returns how long that took to begin work, in s."""
    started = time.monotonic()

    def is_running() -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
        return process.returncode is None

    counts, total, begun = Counts(job.counts), 0, 0.0
    with Progress("scan", total=len(job.corpus.files), unit="file", quiet=quiet) as bar:
        while running := is_running():
            now = counts.read()
            if not begun and now:
                begun = time.monotonic()
            bar.set_done(now["files"], **_notes(now, begun))
            if total := now["planned"]:
                break
    if running:
        with Progress("write", total=total, unit="example", quiet=quiet) as bar:
            while running:
                running = is_running()
                bar.set_done(counts.read()["examples"])
    return begun - started if begun else 0.0


def _notes(counts: Mapping[str, int], begun: float) -> dict[str, object]:
    hours = counts["audio_ms"] / 3.6e6
    speed = hours / max(1.0, time.monotonic() - begun)
    notes: dict[str, object] = {"audio": f"{hours:.2f}h", "speed": f"{speed:.2g}h/s"}
    left_out = sum(skipped(counts).values())
    return {**notes, "skipped": left_out} if left_out else notes


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _death(status: int, log: str) -> str:
    """Says what is known of a process that ended without a word."""
    if status == -signal.SIGKILL:
        return "the job's process was killed, probably for want of memory; close other programs and run it again"
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    return f"the job's process ended with status {status} ({last}); --verbose shows Beam's log"
