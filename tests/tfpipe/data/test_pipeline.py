"""The input pipeline over a real dataset: order, position, parts, shapes."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from dataset_tools import require_same_batches
from helpers import slow

from tfpipe.data.augmentation import AugmentConfig
from tfpipe.data.manifest import load_manifest
from tfpipe.data.pipeline import make_dataset, steps_per_epoch
from tfpipe.data.position import Part, Position
from tfpipe.data.records import decode_example, read_records, write_record
from tfpipe.errors import DatasetError, SpecMismatch, UsageError
from tfpipe.spec import FeatureSpec


def keys(dataset: tf.data.Dataset) -> list[bytes]:
    return [key for batch in dataset.as_numpy_iterator() for key in batch["key"]]


def test_batches_hold_what_the_shards_hold(dataset: Path) -> None:
    manifest = load_manifest(dataset)
    stored = {
        example.key.encode(): example
        for shard in manifest.split_shards("train")
        for example in (decode_example(data, manifest.spec.mel_shape) for data in read_records(dataset / shard.name))
    }
    for batch in make_dataset(dataset, split="train", batch_size=5, seed=1).as_numpy_iterator():
        assert batch["mel"].shape[1:] == (128, 216, 1)
        assert batch["mel"].dtype == np.uint8
        for mel, ref_db, label, key in zip(batch["mel"], batch["ref_db"], batch["label"], batch["key"], strict=True):
            example = stored.pop(key)
            assert np.array_equal(mel[..., 0], example.mel)
            assert ref_db == pytest.approx(example.ref_db)
            assert label == example.label
    assert not stored


def test_order_follows_from_seed_and_epoch(dataset: Path) -> None:
    def order(seed: int, epoch: int) -> list[bytes]:
        return keys(make_dataset(dataset, split="train", batch_size=4, seed=seed, position=Position(epoch=epoch)))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 0)) == sorted(order(0, 1)) == sorted(set(order(1, 3)))


def test_position_goes_on_exactly(dataset: Path) -> None:
    whole = keys(make_dataset(dataset, split="train", batch_size=4, seed=3, position=Position(epoch=2)))
    for step in (1, 2):
        rest = keys(make_dataset(dataset, split="train", batch_size=4, seed=3, position=Position(epoch=2, step=step)))
        assert rest == whole[step * 4 :]


@pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (1, 2), (3, 2)])
def test_parts_make_up_each_global_batch_once(dataset: Path, workers: int, replicas: int) -> None:
    size = 6
    whole = keys(make_dataset(dataset, split="train", batch_size=size, seed=0))
    parts = [
        list(
            make_dataset(
                dataset, split="train", batch_size=size, seed=0, part=Part(worker=w, workers=workers, replicas=replicas)
            ).as_numpy_iterator()
        )
        for w in range(workers)
    ]
    steps = steps_per_epoch(load_manifest(dataset), split="train", batch_size=size, replicas=workers * replicas)
    assert {len(part) for part in parts} == {steps * replicas}
    seen = []
    for step in range(steps):
        batch = [
            key for part in parts for element in part[step * replicas : (step + 1) * replicas] for key in element["key"]
        ]
        assert batch == whole[step * size : step * size + len(batch)]
        seen += batch
    assert len(whole) - len(seen) < workers * replicas
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(("workers", "replicas", "size"), [(2, 1, 5), (3, 2, 7), (1, 4, 1000)])
def test_whole_parts_leave_nothing_out(dataset: Path, workers: int, replicas: int, size: int) -> None:
    everything = keys(make_dataset(dataset, split="train", batch_size=size))
    total, parts = workers * replicas, []
    for worker in range(workers):
        part = Part(worker=worker, workers=workers, replicas=replicas, whole=True)
        elements = make_dataset(dataset, split="train", batch_size=size, part=part)
        parts.append([list(element["key"]) for element in elements.as_numpy_iterator()])
        assert len(parts[-1]) == int(elements.cardinality()) == -(-len(everything) // size) * replicas
    for step in range(-(-len(everything) // size)):
        shares = [element for part in parts for element in part[step * replicas : (step + 1) * replicas]]
        batch = everything[step * size : (step + 1) * size]
        assert len({len(share) for share in shares}) == 1
        rows = [key for share in shares for key in share]
        assert rows == batch + batch[-1:] * (-len(batch) % total)


def test_cardinality_is_known(dataset: Path) -> None:
    count = load_manifest(dataset).examples("train")
    dataset_ = make_dataset(str(dataset), split="train", batch_size=4, seed=0, position=Position(step=1))
    assert int(dataset_.cardinality()) == -(-count // 4) - 1 == len(list(dataset_))


def test_labels_mix_within_a_few_batches(dataset: Path) -> None:
    batches = make_dataset(dataset, split="train", batch_size=8, seed=0).take(3).as_numpy_iterator()
    assert {int(label) for batch in batches for label in batch["label"]} == {0, 1}


def test_refusals(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such dataset folder"):
        make_dataset(tmp_path / "none", split="train", batch_size=4)
    with pytest.raises(UsageError, match="replicas"):
        make_dataset(dataset, split="train", batch_size=1, part=Part(workers=2))
    with pytest.raises(UsageError, match="use shard_by='record'"):
        make_dataset(dataset, split="train", batch_size=4, part=Part(workers=2, whole=True), shard_by="file")
    with pytest.raises(SpecMismatch, match="n_mels: 64 against 128"):
        make_dataset(dataset, split="train", batch_size=4, expected_spec=FeatureSpec(n_mels=64))
    incomplete = tmp_path / "incomplete"
    shutil.copytree(dataset, incomplete)
    (incomplete / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="no complete dataset"):
        make_dataset(incomplete, split="train", batch_size=4)
    with pytest.raises(DatasetError, match="no examples in split 'nothing'"):
        make_dataset(dataset, split="nothing", batch_size=4)


@pytest.fixture(scope="module")
def many_shards(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training examples in seven shards of unequal sizes."""
    folder = tmp_path_factory.mktemp("many")
    manifest = load_manifest(dataset)
    records = [record for shard in manifest.split_shards("train") for record in read_records(dataset / shard.name)]
    edges = [0, 1, 9, 20, 21, 40, 41, len(records)]
    shards = []
    for index in range(7):
        name = f"train-{index:05d}-of-00007.tfrecord"
        part = records[edges[index] : edges[index + 1]]
        with open(folder / name, "wb") as file:
            for record in part:
                write_record(file, record)
        shards.append(dataclasses.replace(manifest.shards[0], name=name, split="train", examples=len(part)))
    (folder / "dataset.json").write_text(json.dumps(dataclasses.replace(manifest, shards=tuple(shards)).to_dict()))
    return folder


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(("workers", "replicas", "size"), [(2, 1, 4), (3, 2, 12), slow(5, 1, 5)])
def test_workers_that_share_by_file_see_everything_once(
    many_shards: Path, workers: int, replicas: int, size: int, seed: int | None
) -> None:
    def part_of(worker: int, step: int = 0) -> list[list[bytes]]:
        part = Part(worker=worker, workers=workers, replicas=replicas)
        position = Position(epoch=1, step=step)
        elements = make_dataset(
            many_shards, split="train", batch_size=size, seed=seed, part=part, position=position, shard_by="file"
        )
        return [list(element["key"]) for element in elements.as_numpy_iterator()]

    manifest = load_manifest(many_shards)
    examples, total = manifest.examples("train"), workers * replicas
    steps = steps_per_epoch(manifest, split="train", batch_size=size, replicas=total)
    parts = [part_of(worker) for worker in range(workers)]
    assert {len(part) for part in parts} == {steps * replicas}
    assert len({tuple(map(len, part)) for part in parts}) == 1
    seen = [key for part in parts for element in part for key in element]
    assert len(seen) == len(set(seen)) == examples // total * total
    shards = [
        {decode_example(data, manifest.spec.mel_shape).key.encode() for data in read_records(many_shards / shard.name)}
        for shard in manifest.shards
    ]
    touched = [sum(bool(shard & {key for element in part for key in element}) for shard in shards) for part in parts]
    assert sum(touched) <= len(shards) + workers - 1
    for worker in range(workers):
        assert part_of(worker, step=2) == parts[worker][2 * replicas :]


def test_a_batch_that_cannot_be_shared_by_file_is_refused(many_shards: Path) -> None:
    with pytest.raises(UsageError, match="cannot share it by file"):
        make_dataset(many_shards, split="train", batch_size=5, part=Part(workers=2), shard_by="file")


def test_one_pipeline_streams_several_epochs_as_one_for_each(dataset: Path) -> None:
    augment = AugmentConfig(roll_s=0.5, mixup=1.0)
    settings: dict[str, Any] = {"split": "train", "batch_size": 4, "seed": 3, "augment": augment}
    start = Position(epoch=2, step=1)
    whole = make_dataset(dataset, position=start, epochs=3, **settings)
    ours = list(whole.as_numpy_iterator())
    assert int(whole.cardinality()) == len(ours)
    single = [make_dataset(dataset, position=at, **settings) for at in (start, Position(epoch=3), Position(epoch=4))]
    require_same_batches(ours, [batch for each in single for batch in each.as_numpy_iterator()])
    endless = make_dataset(dataset, split="validation", batch_size=4, epochs=None)
    once = keys(make_dataset(dataset, split="validation", batch_size=4))
    assert keys(endless.take(2 * -(-len(once) // 4))) == 2 * once
    with pytest.raises(UsageError, match="use epochs=1"):
        make_dataset(dataset, epochs=2, service=("grpc://localhost:9",), **settings)


def test_datasets_that_are_gone_hold_no_files(dataset: Path) -> None:
    def held() -> int:
        links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        return sum(link.startswith(f"{dataset.resolve()}/train-") for link in links)

    def read_one() -> None:
        batches = iter(make_dataset(dataset, split="train", batch_size=4, seed=1))
        next(batches)
        assert held()

    for _ in range(5):
        read_one()
        gc.collect()
    until = time.monotonic() + 10
    while held() and time.monotonic() < until:  # TensorFlow's threads may still end
        time.sleep(0.1)
        gc.collect()
    assert not held()
