"""Datasets at a URL, which TensorFlow or the manifest's readers open there, and errors that say what can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from dataset_tools import batches, require_same_batches
from helpers import last_json, tfpipe, web_server

from tfpipe import lanes
from tfpipe.cli.main import main
from tfpipe.data.manifest import load_manifest
from tfpipe.data.position import Position
from tfpipe.data.statistics import inspect
from tfpipe.data.verify import verify
from tfpipe.errors import DatasetError, TfpipeError, UsageError
from tfpipe.training import checkpoint
from tfpipe.training.config import TrainConfig
from tfpipe.training.loop import train

COMPILED = lanes.tensorflow_io_loads(tf.__version__)
needs_tensorflow_io = pytest.mark.skipif(not COMPILED, reason="tensorflow-io's file systems do not load here")


@pytest.fixture(scope="module")
def web(dataset):
    """The dataset on a web server that knows Range requests."""
    with web_server(dataset.parent) as address:
        yield f"{address}/{dataset.name}"


@needs_tensorflow_io
def test_batches_from_the_web_are_those_of_the_folder(dataset, web):
    for position in (Position(), Position(epoch=1, step=1)):
        require_same_batches(batches(web, position=position), batches(dataset, position=position))
    require_same_batches(batches(web, seed=None, split="test"), batches(dataset, seed=None, split="test"))


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
        assert ("sends whole files only" if COMPILED else "default lane (TensorFlow ") in text


@pytest.mark.slow
def test_training_from_a_bucket_ends_well_with_the_weights_of_the_folder(small, store, tmp_path):
    url = store.put_folder(small, "data")
    settings: dict[str, Any] = {"preset": "tiny", "epochs": 1, "prior": "none", "batch_size": 12, "seed": 7}
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", value)]
    # S3_ENDPOINT is not set, because the variables of boto3 are enough.
    places = ["--data", url, "--run", tmp_path / "ours", *([] if COMPILED else ["--cache", tmp_path / "cache"])]
    assert last_json(tfpipe("train", *places, *options, "--json"))["epochs"] == 1
    train(TrainConfig(data=str(small), run=str(tmp_path / "theirs"), **settings), quiet=True)
    ours, theirs = (checkpoint.load(tmp_path / name / "checkpoints") for name in ("ours", "theirs"))
    assert ours is not None
    assert theirs is not None
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name in ours.arrays:
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name])


@pytest.mark.slow
@needs_tensorflow_io
def test_a_missing_object_ends_training_with_status_1_and_one_line(small, store, tmp_path):
    """The validation shard is missing, so TensorFlow has used its s3:// for training before the error."""
    url = store.put_folder(small, "data")
    shard = load_manifest(small).split_shards("validation")[0]
    store.client.delete_object(Bucket=store.bucket, Key=f"data/{shard.name}")
    options = ("--preset", "tiny", "--epochs", 1, "--batch-size", 60)
    done = tfpipe("train", "--data", url, "--run", tmp_path / "run", *options)
    assert done.returncode == 1
    assert f"tfpipe: {url}/{shard.name}: the shard is gone; make the dataset again" in done.stderr.splitlines()[-1]


def test_wrong_usage(tmp_path, capsys):
    for field in ("run", "cache"):
        values: dict[str, Any] = {"data": "data", "run": "run", field: "s3://bucket/x"}
        with pytest.raises(UsageError, match="must be a local folder"):
            TrainConfig(**values)
    for wrong in ("localhost:5050", "grpc://h", "grpc://h:1,grpc://h:1"):
        with pytest.raises(UsageError, match="use grpc://HOST:PORT"):
            TrainConfig(data="data", run="run", data_service=wrong)
    assert main(["train", "--data", "ftp://host/data", "--run", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith("tfpipe: ftp://host/data")
