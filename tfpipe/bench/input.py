"""`tfpipe bench input`: compares the input pipeline with what most people write first, and with reading alone.

All read the same examples in turn in one run.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfpipe.bench.compare import Result, Step, compared, rates
from tfpipe.data.manifest import MANIFEST, Manifest, Shard, load_manifest
from tfpipe.data.pipeline import make_dataset
from tfpipe.data.position import Position
from tfpipe.data.records import Example, decode_example, encode_example, read_records, write_record
from tfpipe.errors import UsageError
from tfpipe.features.log_mel import dequantise
from tfpipe.spec import FeatureSpec

_BATCH = 64
_SHARDS = 8
# Some seconds of reading. They fit into the page cache, so the disk is not timed.
_EXAMPLES = 40_000
# Examples of the long epoch in whose middle reading is resumed.
_EPOCH = 100_000


def bench_input(data: Path | None = None, *, rounds: int, examples: int = _EXAMPLES) -> list[Result]:
    """Measures reading for training.

    Args:
        data: dataset folder whose training examples are repeated; None uses noise.
        rounds: how often everything is timed.
        examples: examples that are read in one timing.

    Raises:
        UsageError: `rounds` is less than 1, or there are too few examples.
        DatasetError: the dataset cannot be read.
    """
    if rounds < 1 or examples < _SHARDS * _BATCH:
        raise UsageError(
            f"rounds={rounds}, examples={examples} cannot be measured; use at least 1 and {_SHARDS * _BATCH}"
        )
    with tempfile.TemporaryDirectory(prefix="tfpipe-bench-") as name:
        folder = Path(name)
        manifest = repeated(data, folder, examples)
        floats = _as_floats(manifest, folder)
        ours = functools.partial(make_dataset, folder, split="train", batch_size=_BATCH)
        steps: dict[str, Step] = {
            "float_list, parse one by one": _steady(
                lambda: _baseline(floats, manifest.spec), manifest.shards[0].examples
            ),
            "raw read": _steady(lambda: _raw(manifest, folder).batch(_BATCH).prefetch(tf.data.AUTOTUNE), examples),
            "raw read, one by one": _counted(lambda: _raw(manifest, folder)),
            "key order": _steady(ours, examples),
            "shuffled": _steady(lambda: ours(seed=0), examples),
        }
        found = rates(steps, rounds=rounds, what="input")
        baseline, limit = found["float_list, parse one by one"], found["raw read"]
        return [
            compared("float_list, parse one by one", baseline, against="baseline", of=baseline),
            compared("raw read", limit, against="limit", of=limit),
            compared("raw read, one by one", found["raw read, one by one"], against="limit", of=limit),
            *(
                compared(f"{name}, against the {against}", found[name], against=against, of=other)
                for name in ("key order", "shuffled")
                for against, other in (("baseline", baseline), ("limit", limit))
            ),
            *_cpu(ours, manifest, folder, rounds=rounds),
            compared("shuffled, against key order", found["shuffled"], against="limit", of=found["key order"]),
            Result(
                name="bytes an example", value=sum(shard.bytes for shard in manifest.shards) / examples, unit="bytes"
            ),
            *_memory(folder, manifest),
            _resume(folder, manifest, rounds=rounds),
        ]


def _cpu(ours: Callable[..., tf.data.Dataset], manifest: Manifest, folder: Path, *, rounds: int) -> list[Result]:
    """Measures the CPU time of this process for an example; unlike the rates, it depends little on other programs."""
    steps: dict[str, Callable[[], tf.data.Dataset]] = {
        "raw read": lambda: _raw(manifest, folder).batch(_BATCH).prefetch(tf.data.AUTOTUNE),
        "shuffled": lambda: ours(seed=0),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, make in steps.items():
            started = time.process_time()
            for _batch in make():
                pass
            found[name].append((time.process_time() - started) / manifest.examples("train") * 1e6)
    limit = found["raw read"]
    return [
        Result(
            name=f"CPU time, {name}",
            value=statistics.median(values),
            unit="us/example",
            against="limit",
            ratio=statistics.median(of / value for of, value in zip(limit, values, strict=True)),
        )
        for name, values in found.items()
    ]


def _steady(make: Callable[[], tf.data.Dataset], examples: int) -> Callable[[], tuple[int, float]]:
    """Returns a step that takes batches one by one, as a training loop does, and times the steady state.

    The first tenth of the batches is not timed, because files are opened and buffers fill then;
    neither is the last fifth, because the buffers drain then.
    """
    batches = examples // _BATCH
    first, last = batches // 10, batches - batches // 5

    def run() -> tuple[int, float]:
        iterator = iter(make())
        for _ in range(first):
            next(iterator)
        started = time.perf_counter()
        for _ in range(first, last):
            next(iterator)
        return (last - first) * _BATCH, time.perf_counter() - started

    return run


def _counted(make: Callable[[], tf.data.Dataset]) -> Callable[[], int]:
    """Returns a step that counts elements inside TensorFlow, because Python is too slow for single records."""
    return lambda: int(make().reduce(np.int64(0), lambda count, _: count + 1).numpy())


def _raw(manifest: Manifest, folder: Path) -> tf.data.Dataset:
    """Returns the same records, interleaved and not parsed: as fast as TensorFlow reads them."""
    paths = [str(folder / shard.name) for shard in manifest.shards]
    files = tf.data.Dataset.from_tensor_slices(paths)
    return files.interleave(tf.data.TFRecordDataset, cycle_length=len(paths), num_parallel_calls=tf.data.AUTOTUNE)


def _baseline(path: Path, spec: FeatureSpec) -> tf.data.Dataset:
    """Returns the pipeline one would write first: floats, parsed one example at a time, batched, prefetched."""
    features = {"mel": tf.io.FixedLenFeature(spec.mel_shape, tf.float32), "label": tf.io.FixedLenFeature([], tf.int64)}
    records = tf.data.TFRecordDataset(str(path))
    parsed = records.map(lambda record: tf.io.parse_single_example(record, features), tf.data.AUTOTUNE)
    return parsed.batch(_BATCH).prefetch(tf.data.AUTOTUNE)


def repeated(data: Path | None, folder: Path, count: int) -> Manifest:
    """Writes a dataset of `count` training examples into `folder`: those of `data` repeated, or noise if it is None."""
    spec = load_manifest(data).spec if data else FeatureSpec()
    sources = itertools.cycle(_training_examples(data) if data else _noise(spec))
    per_shard = count // _SHARDS
    shards = []
    for index in range(_SHARDS):
        path = folder / f"train-{index:05d}-of-{_SHARDS:05d}.tfrecord"
        with open(path, "wb") as file:
            for number in range(per_shard if index else count - per_shard * (_SHARDS - 1)):
                example = dataclasses.replace(next(sources), key=f"{index:05d}/{number:012d}/original")
                write_record(file, encode_example(example))
        shards.append(
            Shard(name=path.name, split="train", examples=number + 1, bytes=path.stat().st_size, sha256="", variants={})
        )
    return _write_manifest(folder, Manifest(spec=spec, labels=("any",), shards=tuple(shards)))


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict()))
    return manifest


def _training_examples(data: Path) -> list[Example]:
    manifest = load_manifest(data)
    records = (record for shard in manifest.split_shards("train") for record in read_records(data / shard.name))
    return [decode_example(record, manifest.spec.mel_shape) for record in itertools.islice(records, 1000)]


def _noise(spec: FeatureSpec) -> list[Example]:
    rng = np.random.default_rng(0)
    mels = rng.integers(0, 256, (64, *spec.mel_shape), dtype=np.uint8)
    return [
        Example(mel=mel, ref_db=0.0, label=0, track="0" * 64, start_s=0.0, variant="original", key="") for mel in mels
    ]


def _as_floats(manifest: Manifest, folder: Path) -> Path:
    """Writes an eighth of the examples as lists of floats, which is how most people store them."""
    path = folder / "floats.tfrecord"
    with open(path, "wb") as file:
        for record in read_records(folder / manifest.shards[0].name):
            example = decode_example(record, manifest.spec.mel_shape)
            mel = tf.train.Feature(float_list=tf.train.FloatList(value=dequantise(example.mel).ravel()))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[example.label]))
            features = tf.train.Features(feature={"mel": mel, "label": label})
            write_record(file, tf.train.Example(features=features).SerializeToString())
    return path


def _memory(folder: Path, manifest: Manifest) -> list[Result]:
    """Measures the peak memory of this process while it reads one shard, and while it reads all shards."""
    peaks = []
    for shards in (1, _SHARDS):
        part = dataclasses.replace(manifest, shards=manifest.shards[:shards])
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        for _ in make_dataset(folder, split="train", batch_size=_BATCH, seed=0, manifest=part):
            pass
        peaks.append(_peak_mib())
    names = (
        f"peak memory, {manifest.shards[0].examples} examples",
        f"peak memory, {manifest.examples('train')} examples",
    )
    return [
        Result(name=name, value=peak, unit="MiB", against="baseline", ratio=peaks[0] / peak)
        for name, peak in zip(names, peaks, strict=True)
    ]


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _resume(folder: Path, manifest: Manifest, *, rounds: int) -> Result:
    """Measures the time to the first batch in the middle of a long epoch."""
    times = -(-_EPOCH // manifest.examples("train"))
    shards: list[Shard] = []
    for _ in range(times):
        for shard in manifest.shards:
            name = f"train-{len(shards):05d}-of-99999.tfrecord"
            os.link(folder / shard.name, folder / name)
            shards.append(dataclasses.replace(shard, name=name))
    epoch = dataclasses.replace(manifest, shards=tuple(shards))
    middle = epoch.examples("train") // _BATCH // 2
    seconds = []
    for number in range(rounds):
        started = time.perf_counter()
        position = Position(epoch=number, step=middle)
        next(iter(make_dataset(folder, split="train", batch_size=_BATCH, seed=0, position=position, manifest=epoch)))
        seconds.append(time.perf_counter() - started)
    return Result(
        name=f"first batch in the middle of {epoch.examples('train')} examples",
        value=float(np.median(seconds)),
        unit="s",
    )
