"""The shard cache: whole copies by their checksums, and what goes wrong while they are made."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from dataset_tools import batches, require_same_batches
from helpers import web_server

from tfpipe.data.damage import salvage, translate_input_errors
from tfpipe.data.manifest import load_manifest
from tfpipe.data.shard_cache import cached
from tfpipe.errors import DatasetError, TfpipeError


def test_the_cache_holds_whole_shards_by_their_checksums(dataset, plain_web, tmp_path, capsys):
    cache = tmp_path / "cache"
    copy = cached(plain_web, cache, splits=("train",))
    assert "cache" in capsys.readouterr().err
    require_same_batches(batches(copy), batches(dataset))
    shards = load_manifest(dataset).split_shards("train")
    copies = sorted(path.name for path in cache.glob("*.tfrecord"))
    assert copies == sorted(f"{shard.sha256}.tfrecord" for shard in shards)
    assert not list(cache.glob(".*.tmp-*"))

    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("*.tfrecord")}
    # Another dataset with the same shards copies nothing. A damaged copy and a half-written one are not used.
    other = dataclasses.replace(load_manifest(dataset), labels=("A", "B"))
    (folder := tmp_path / "other").mkdir()
    (folder / "dataset.json").write_text(json.dumps(other.to_dict()))
    second = cached(folder, cache, splits=("train",))
    assert second != copy
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.tfrecord")} == stamps
    first = cache / copies[0]
    data = first.read_bytes()
    (cache / f".{first.name}.tmp-01234567").write_bytes(data[:1000])
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    damaged = pytest.raises(DatasetError, match="this copy in the cache is damaged: run the same command again")
    with damaged, translate_input_errors(copy, load_manifest(copy), split="train"):
        batches(copy)
    cached(plain_web, cache, splits=("train",))
    assert first.read_bytes() == data
    assert not list(cache.glob(".*.tmp-*"))


def test_what_is_not_the_manifests_shard_is_not_cached(dataset, tmp_path):
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    shard = load_manifest(copy).split_shards("test")[0]
    data = bytearray((copy / shard.name).read_bytes())
    data[100] ^= 1
    (copy / shard.name).write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{shard.name}: content differs from the manifest's checksum"):
        cached(copy, tmp_path / "cache", splits=("test",))
    assert not list((tmp_path / "cache").glob("[0-9a-f]*"))


def test_a_full_disk_is_one_line(dataset, tmp_path):
    """A limit on the size of files stands for the end of the disk: it is met in the middle of a copy."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tfpipe.data.shard_cache import cached\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from tfpipe.errors import TfpipeError\n"
        "try: cached(sys.argv[1], Path(sys.argv[2]), splits=('test',))\n"
        "except TfpipeError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(dataset), str(tmp_path / "cache")]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    (line,) = done.stdout.splitlines()
    assert re.search(r"cache/[0-9a-f]{64}\.tfrecord: File too large", line)
    assert not list((tmp_path / "cache").glob("[0-9a-f]*"))


def test_a_network_that_fails_is_no_damage(dataset, tmp_path):
    """A connection that breaks off must not be taken for damage, which would leave examples out."""
    with web_server(dataset.parent, truncate=True) as address:
        url = f"{address}/{dataset.name}"
        with pytest.raises(TfpipeError, match="the connection ended early"):
            cached(url, tmp_path, splits=("test",))
        with pytest.raises(TfpipeError, match=r"out of reach.*no damage is known: run the same command again"):
            salvage(url, load_manifest(url), split="test")
    manifest = load_manifest(dataset)
    with pytest.raises(TfpipeError, match="out of reach"), translate_input_errors(url, manifest, split="test"):
        raise tf.errors.UnavailableError(None, None, "the server is gone")
    with (
        pytest.raises(DatasetError, match="its shards are whole"),
        translate_input_errors(dataset, manifest, split="test"),
    ):
        raise tf.errors.UnavailableError(None, None, "the server is gone")
