"""Datasets that are not here: s3:// and http:// through TensorFlow, the cache, and what goes wrong on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import last_json, tfpipe, web_server

from tfpipe import lanes
from tfpipe.cli.main import main
from tfpipe.data.damage import salvage, translate_input_errors
from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Position
from tfpipe.data.shard_cache import cached
from tfpipe.data.statistics import inspect
from tfpipe.data.verify import verify
from tfpipe.errors import DatasetError, TfpipeError, UsageError
from tfpipe.training import checkpoint
from tfpipe.training.loop import train
from tfpipe.training.run_folder import TrainConfig

COMPILED = lanes.tensorflow_io_loads(tf.__version__)
needs_tensorflow_io = pytest.mark.skipif(not COMPILED, reason="tensorflow-io's file systems do not load here")


@pytest.fixture(scope="module")
def web(dataset):
    """The dataset on a web server that knows Range requests."""
    with web_server(dataset.parent) as address:
        yield f"{address}/{dataset.name}"


@pytest.fixture
def plain_web(dataset):
    """The dataset on a web server that sends whole files only."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(dataset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
        finally:
            server.kill()


def batches(folder, **settings):
    settings = {"split": "train", "batch_size": 4, "seed": 3, **settings}
    return list(make_dataset(folder, **settings).as_numpy_iterator())


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        for name in our:
            np.testing.assert_array_equal(our[name], their[name])


@needs_tensorflow_io
def test_batches_from_the_web_are_those_of_the_folder(dataset, web):
    for position in (Position(), Position(epoch=1, step=1)):
        same(batches(web, position=position), batches(dataset, position=position))
    same(batches(web, seed=None, split="test"), batches(dataset, seed=None, split="test"))


def test_manifests_are_read_from_the_web(dataset, web):
    assert load_manifest(web) == load_manifest(dataset)
    assert inspect(web) == inspect(dataset)
    assert verify(web) == []
    with pytest.raises(DatasetError, match="no complete dataset here"):
        load_manifest(f"{web}-no")
    with pytest.raises(TfpipeError, match=r"http://127.0.0.1:9/data/dataset.json: out of reach \(Connection refused\)"):
        load_manifest("http://127.0.0.1:9/data")


def test_a_url_that_tensorflow_cannot_read_says_who_can(dataset, plain_web, store):
    url = store.put_folder(dataset, "data")
    for folder in (plain_web, *(() if COMPILED else (url,))):
        with pytest.raises(TfpipeError) as raised:
            batches(folder)
        text = str(raised.value)
        assert text.startswith(f"{folder}: ")
        assert "use --cache DIR" in text
        assert ("sends whole files only" if COMPILED else "default lane (constraints/default.txt: ") in text


@pytest.mark.slow
def test_training_from_a_bucket_ends_well_with_the_weights_of_the_folder(dataset, store, tmp_path):
    url = store.put_folder(dataset, "data")
    settings = {"preset": "tiny", "epochs": 1, "batch_size": 8, "seed": 7}
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", value)]
    # With S3_ENDPOINT unset: the variables of boto3 are enough.
    places = ["--data", url, "--run", tmp_path / "ours", *([] if COMPILED else ["--cache", tmp_path / "cache"])]
    assert last_json(tfpipe("train", *places, *options, "--json"))["epochs"] == 1
    train(TrainConfig(data=str(dataset), run=str(tmp_path / "theirs"), **settings), quiet=True)
    ours, theirs = (checkpoint.load(tmp_path / name / "checkpoints").arrays for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@needs_tensorflow_io
def test_a_missing_object_ends_training_with_status_1_and_one_line(dataset, store, tmp_path):
    """Training examples can be read, those of validation are gone: TensorFlow's s3:// has been used by then."""
    url = store.put_folder(dataset, "data")
    shard = load_manifest(dataset).split_shards("validation")[0]
    store.client.delete_object(Bucket=store.bucket, Key=f"data/{shard.name}")
    options = ("--preset", "tiny", "--epochs", 1, "--batch-size", 16)
    done = tfpipe("train", "--data", url, "--run", tmp_path / "run", *options)
    assert done.returncode == 1
    assert f"tfpipe: {url}/{shard.name}: the shard is gone; make the dataset again" in done.stderr.splitlines()[-1]


def test_the_cache_holds_whole_shards_by_their_checksums(dataset, plain_web, tmp_path, capsys):
    cache = tmp_path / "cache"
    copy = cached(plain_web, cache, splits=("train",))
    assert "cache" in capsys.readouterr().err
    same(batches(copy), batches(dataset))
    shards = load_manifest(dataset).split_shards("train")
    copies = sorted(path.name for path in cache.glob("*.tfrecord"))
    assert copies == sorted(f"{shard.sha256}.tfrecord" for shard in shards)
    assert not list(cache.glob(".*.tmp-*"))

    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("*.tfrecord")}
    # Another dataset with the same shards costs nothing; a damaged copy and half a copy are not used.
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
    """With a limit on the size of files: as the disk's end, it comes in the middle of a copy."""
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
    """A connection that breaks off must not cost examples."""
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


def test_wrong_usage(tmp_path, capsys):
    for field in ("run", "cache"):
        with pytest.raises(UsageError, match="must be a local folder"):
            TrainConfig(**{"data": "data", "run": "run", field: "s3://bucket/x"})
    for wrong in ("localhost:5050", "grpc://h", "grpc://h:1,grpc://h:1"):
        with pytest.raises(UsageError, match="use grpc://HOST:PORT"):
            TrainConfig(data="data", run="run", data_service=wrong)
    assert main(["train", "--data", "ftp://host/data", "--run", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith("tfpipe: ftp://host/data")
