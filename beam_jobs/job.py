"""The preprocessing job: a corpus in, a complete dataset folder out, or one line that says why not.

The Beam pipeline (`beam_jobs.pipeline`) runs in a process of its own. This
side holds the folder's lock, feeds the progress bar and ends everything on
Ctrl-C. Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import soundfile

from beam_jobs.augment import cached_augmenter
from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import Corpus, discover
from beam_jobs.plan import input_digest
from beam_jobs.tracks import hash_file
from tfpipe import __version__, children
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.manifest import MANIFEST, Manifest, load_manifest
from tfpipe.progress import Progress
from tfpipe.storage import digest, explain_os_errors, folder_lock

_POLL_S = 0.2
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
    """

    config: PreprocessConfig
    corpus: Corpus
    pipeline_args: tuple[str, ...] = ()

    @property
    def work(self) -> str:
        """Folder for everything that is not yet the dataset."""
        return f"{self.config.output.rstrip('/')}/.work"

    @property
    def ticks(self) -> Path:
        """Folder of the files whose sizes count finished work, for the progress bar."""
        return Path(self.work) / "ticks"

    @functools.cached_property
    def digest(self) -> str:
        """16 hex digits over the settings and tools that a shard's bytes depend on."""
        found = versions()
        return digest({"config": self.config.digest, "versions": [found[name] for name in _TOOLS[:-2]]})

    def tick(self, stage: str, count: int = 1) -> None:
        """Notes finished work: a byte each, in a file per stage and process."""
        if not self.config.is_remote:
            # A bar that stands still must not end the job.
            with contextlib.suppress(OSError), open(self.ticks / f"{stage}-{os.getpid()}", "ab") as file:
                file.write(b"." * count)

    def ticked(self, stage: str) -> int:
        """Returns how much work all processes noted."""
        try:
            return sum(path.stat().st_size for path in self.ticks.glob(f"{stage}-*"))
        except OSError:
            return 0


def preprocess(
    config: PreprocessConfig, *, pipeline_args: Sequence[str] = (), quiet: bool = False, verbose: bool = False
) -> Manifest:
    """Turns a corpus into a dataset folder.

    A complete dataset of the same settings and the same files is left as it
    is; one of the same settings and other files is replaced once the new one
    is ready. Shards that a killed job finished are taken over.

    Args:
        config: what to do.
        pipeline_args: Beam options; `--runner` and its options for a cluster.
        quiet: show no progress.
        verbose: let Beam's log through to stderr.

    Raises:
        TfpipeError: no usable audio, too much of it skipped, a dataset of
            other settings in the way, disk full, a worker died, ...
    """
    for split in ("train", "test"):
        cached_augmenter(config.spec, config.variants(split), config.engine)  # refuses impossible shifts now
    job = Job(config=config, corpus=discover(config.inputs, groups=config.groups), pipeline_args=tuple(pipeline_args))
    with contextlib.nullcontext() if config.is_remote else folder_lock(Path(config.output), what="preprocessing job"):
        if (current := _current(job, quiet=quiet)) is not None:
            return current
        if not config.is_remote:
            _tidy(job)
        _supervise(job, quiet=quiet, verbose=verbose)
        manifest = _existing(config)
    if manifest is None:
        raise TfpipeError(f"{config.output}: the job ended without a {MANIFEST}; run it again with --verbose")
    return manifest


def versions() -> dict[str, str]:
    """Returns the versions of the tools that make a dataset."""
    found = {"libsndfile": soundfile.__libsndfile_version__, "python": platform.python_version(), "tfpipe": __version__}
    return {name: found.get(name) or importlib.metadata.version(name) for name in _TOOLS}


def _existing(config: PreprocessConfig) -> Manifest | None:
    """Returns the manifest of the dataset that stands in the output folder, if one does."""
    if not config.is_remote:
        return load_manifest(Path(config.output)) if (Path(config.output) / MANIFEST).exists() else None
    from beam_jobs import files  # brings Beam, which local paths do without here

    path = f"{config.output.rstrip('/')}/{MANIFEST}"
    return Manifest.from_dict(json.loads(files.read(path))) if files.exists(path) else None


def _current(job: Job, *, quiet: bool) -> Manifest | None:
    """Returns the manifest of a dataset that is what the job would make.

    Raises:
        TfpipeError: a dataset of other settings is in the way.
    """
    config = job.config
    try:
        manifest = _existing(config)
    except TfpipeError as error:
        if config.overwrite:
            return None
        raise TfpipeError(f"{error}; use --overwrite to make it anew") from error
    if manifest is None:
        return None
    if manifest.config.get("digest") != config.digest:
        if config.overwrite:
            return None
        raise TfpipeError(
            f"{config.output}: holds a dataset made with other settings ({_differences(manifest, config)}); "
            "use --overwrite to replace it, or another --output"
        )
    if not _has_its_shards(manifest, config) or manifest.config.get("input") != _input_digest(job.corpus, quiet=quiet):
        return None
    if not quiet:
        print(f"{config.output}: already holds this dataset; nothing to do", file=sys.stderr)
    return manifest


def _has_its_shards(manifest: Manifest, config: PreprocessConfig) -> bool:
    """Tells whether every shard is there with its size; `tfpipe verify` looks at every byte."""
    if config.is_remote:
        return True
    paths = [(Path(config.output) / shard.name, shard.bytes) for shard in manifest.shards]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _input_digest(corpus: Corpus, *, quiet: bool) -> str:
    rows = []
    with Progress("compare", total=len(corpus.files), unit="file", quiet=quiet) as bar:
        for file in corpus.files:
            try:
                rows.append((file, hash_file(file.path)))
            except AudioError:
                rows.append((file, ""))
            bar.update()
    return input_digest(rows, corpus.skipped)


def _differences(manifest: Manifest, config: PreprocessConfig) -> str:
    old, new = manifest.config, json.loads(json.dumps(config.to_dict()))
    names = [name for name in new if name in old and old[name] != new[name] and name not in ("inputs", "output")]
    return ", ".join(names) or "by another version of tfpipe"


def _tidy(job: Job) -> None:
    """Removes what a killed job left half-written; its finished shards stay."""
    with explain_os_errors(job.work):
        shutil.rmtree(job.ticks, ignore_errors=True)
        job.ticks.mkdir(parents=True)
        for leftover in Path(job.work).glob("*.tmp-*"):
            leftover.unlink()


def _supervise(job: Job, *, quiet: bool, verbose: bool) -> None:
    """Runs the pipeline's process to its end, or ends it with this one.

    Raises:
        TfpipeError: the cause that it reports, or what can be said of its death.
    """
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryFile() as report,
        tempfile.TemporaryDirectory(prefix="tfpipe-") as scratch,
    ):
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
            _watch(process, job, quiet=quiet)
        finally:
            _end(process)
        outcome = json.loads(_content(report) or "null")
        if outcome is None:
            raise TfpipeError(_death(process.returncode, _content(log)))
    if "error" in outcome:
        raise TfpipeError(outcome["error"])


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


def _watch(process: subprocess.Popen[bytes], job: Job, *, quiet: bool) -> None:
    """Shows progress until the process has ended."""

    def is_running() -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
        return process.returncode is None

    files = len(job.corpus.files)
    with Progress("scan", total=files, unit="file", quiet=quiet) as bar:
        while is_running() and not job.ticked("examples"):
            bar.set_done(job.ticked("scan"))
        bar.set_done(job.ticked("scan") if job.ticks.exists() else files)
    if total := job.ticked("examples"):
        with Progress("write", total=total, unit="example", quiet=quiet) as bar:
            while is_running():
                bar.set_done(max(job.ticked("write"), bar.done))
            bar.set_done(bar.done if job.ticks.exists() else total)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _death(status: int, log: str) -> str:
    """Says what is known of a process that ended without a word."""
    if status == -signal.SIGKILL:
        return "the job's process was killed, probably for want of memory; close other programs and run it again"
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "no message")
    return f"the job's process ended with status {status} ({last}); --verbose shows Beam's log"
