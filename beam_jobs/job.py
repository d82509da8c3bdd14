"""Runs a preprocessing job: turns a corpus into a complete dataset folder, or says in one line why it cannot.

The steps: find the files, lock the output folder, check what is there, keep
what an older job left, run the pipeline in a process of its own
(`beam_jobs.supervise`). Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from beam_jobs import files
from beam_jobs.config import NOT_CONTENT, PreprocessConfig
from beam_jobs.corpus import AudioFile, Corpus, discover
from beam_jobs.engines import cached_maker
from beam_jobs.input_digest import input_digest
from beam_jobs.metrics import profile
from beam_jobs.parts import input_row, split_row, stage
from beam_jobs.payload import Job
from beam_jobs.reuse import recorded_scans, salvage, with_earlier
from beam_jobs.scan import Scan, content_hash, file_stamp
from beam_jobs.sifting import input_splits
from beam_jobs.supervise import run_in_child
from tfpipe.data.manifest import MANIFEST, SKIPPED, TRACKS, Manifest, load_manifest
from tfpipe.errors import AudioError, TfpipeError
from tfpipe.files import remote
from tfpipe.files.storage import folder_lock
from tfpipe.process.progress import Progress

# Files that are hashed at the same time.
_HASHERS = 8


def preprocess(
    config: PreprocessConfig, *, pipeline_args: Sequence[str] = (), quiet: bool = False, verbose: bool = False
) -> Manifest:
    """Turns a corpus into a dataset folder.

    If the output folder holds a complete dataset of the same settings and the
    same files, nothing is done. If the files differ, the old dataset is
    replaced once the new one is ready. Scans and examples of the old dataset,
    or of a job that was killed, are reused if nothing about them has changed.

    Args:
        config: the settings.
        pipeline_args: Beam options, such as `--runner` and its options for a cluster.
        quiet: show no progress.
        verbose: show Beam's log on stderr.

    Returns:
        The manifest of the dataset.

    Raises:
        TfpipeError: no usable audio, too many files skipped, a dataset of other settings in the output
            folder, a full disk, a worker that died, ...
    """
    if not config.is_remote:
        # Workers may run in another folder, where a relative path means something else.
        config = dataclasses.replace(config, output=os.path.abspath(config.output))
    _refuse_impossible_shifts(config)
    if pipeline_args:
        remote.use_options(pipeline_args)
    corpus = discover(config.inputs, groups=config.groups, splits_from=config.splits_from)
    job = Job(config=config, corpus=corpus, pipeline_args=tuple(pipeline_args))
    started = time.monotonic()
    with _locked(config.output):
        manifest = _replaceable_manifest(config)
        recorded = recorded_scans(config) if manifest is not None else []
        if manifest is not None and _is_current(job, manifest, recorded, quiet=quiet):
            if not quiet:
                print(f"{config.output}: already holds this dataset; nothing to do", file=sys.stderr)
            if not config.is_remote:
                shutil.rmtree(job.scratch, ignore_errors=True)  # of a job that was killed at its very end
            return manifest
        salvage(job)
        counts = run_in_child(stage(with_earlier(job, manifest, recorded)), quiet=quiet, verbose=verbose)
        manifest = _existing_manifest(config)
    if manifest is None:
        raise TfpipeError(f"{config.output}: the job ended without a {MANIFEST}; run it again with --verbose")
    if not quiet:
        print(profile(counts, time.monotonic() - started), file=sys.stderr)
    return manifest


def _refuse_impossible_shifts(config: PreprocessConfig) -> None:
    """Raises now the error that the workers would raise for a shift that the engine cannot make."""
    for split in ("train", "test"):
        cached_maker(config.spec, config.variants(split), config.engine)


def _locked(output: str) -> contextlib.AbstractContextManager[None]:
    """Keeps other jobs out of the output folder."""
    if not remote.is_remote(output):
        return folder_lock(Path(output), what="preprocessing job")
    return files.held(output, what="preprocessing job")


def _existing_manifest(config: PreprocessConfig) -> Manifest | None:
    """Returns the manifest in the output folder, or None if the folder holds no complete dataset."""
    return load_manifest(config.output) if remote.exists(remote.join(config.output, MANIFEST)) else None


def _replaceable_manifest(config: PreprocessConfig) -> Manifest | None:
    """Returns the manifest in the output folder, or None if there is none or it is damaged and may be replaced.

    Raises:
        TfpipeError: the manifest is damaged or has other settings, and `overwrite` is off.
    """
    try:
        manifest = _existing_manifest(config)
    except TfpipeError as error:
        if config.overwrite:
            return None
        raise TfpipeError(f"{error}; use --overwrite to make the dataset again") from error
    if manifest is not None and manifest.config.get("digest") != config.digest and not config.overwrite:
        raise TfpipeError(
            f"{config.output}: holds a dataset made with other settings ({_differences(manifest, config)}); "
            "use --overwrite to replace it, or another --output"
        )
    return manifest


def _differences(manifest: Manifest, config: PreprocessConfig) -> str:
    old, new = manifest.config, json.loads(json.dumps(config.to_dict()))
    names = [name for name in new if name in old and old[name] != new[name] and name not in NOT_CONTENT]
    return ", ".join(names) or "by another version of tfpipe"


def _is_current(job: Job, manifest: Manifest, recorded: Sequence[Scan], *, quiet: bool) -> bool:
    """Tells whether a dataset is the one that the job would make."""
    if manifest.config.get("digest") != job.config.digest or not _is_whole(manifest, job.config):
        return False
    return manifest.config.get("input") == _current_input_digest(job.corpus, recorded, quiet=quiet)


def _is_whole(manifest: Manifest, config: PreprocessConfig) -> bool:
    """Tells whether every file is there and each shard has its size; `tfpipe verify` checks every byte."""
    found = remote.sizes(config.output)
    return {TRACKS, SKIPPED} <= set(found) and all(found.get(shard.name) == shard.bytes for shard in manifest.shards)


def _current_input_digest(corpus: Corpus, recorded: Sequence[Scan], *, quiet: bool) -> str:
    """Returns the digest of the files as they are now; empty as soon as one file is known to have changed."""
    known = {scan.file.path: scan for scan in recorded}

    def current_hash(file: AudioFile) -> str | None:
        scan = known.get(file.path)
        if known and scan is None:
            return None
        try:
            stamp = file_stamp(file.path)
            changed = scan is not None and scan.hash and stamp[0] != scan.stamp[0]
            return None if changed else content_hash(file.path, stamp, scan)
        except AudioError:
            return ""

    rows, chosen = list[bytes](), list[tuple[str, str]]()
    with (
        Progress("compare", total=len(corpus.files), unit="file", quiet=quiet) as bar,
        ThreadPoolExecutor(_HASHERS) as pool,
    ):
        for file, found in zip(corpus.files, pool.map(current_hash, corpus.files), strict=True):
            if found is None:
                pool.shutdown(wait=False, cancel_futures=True)
                return ""
            rows.append(input_row(file, found).encode("utf-8", "surrogateescape"))
            chosen.append((found, file.split))  # a copy of a file that has a split counts too
            bar.update()
    splits = (split_row(*row).encode() for row in input_splits(chosen, corpus.splits))
    return input_digest(rows, skipped=corpus.skipped, splits=splits)
