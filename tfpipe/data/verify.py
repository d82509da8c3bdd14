"""Checks every byte of a dataset folder against its manifest. Does not load TensorFlow."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

from tfpipe.data.manifest import Folder, Manifest, Shard, load_manifest
from tfpipe.data.records import Example, decode_example, read_records
from tfpipe.errors import DatasetError
from tfpipe.files.remote import exists, join, sizes, stamp


def verify(folder: Folder, *, on_shard: Callable[[Shard], None] | None = None) -> list[str]:
    """Checks every byte of a dataset folder against its manifest.

    Args:
        folder: dataset folder, local or a URL.
        on_shard: called after each shard, for progress.

    Returns:
        One sentence per problem, with the file's name; empty when the dataset is whole.

    Raises:
        DatasetError: there is no complete dataset to verify.
    """
    manifest = load_manifest(folder)
    known = {shard.name for shard in manifest.shards}
    problems = [
        f"{join(folder, name)}: not in the manifest (extra shard)"
        for name in sorted(sizes(folder))
        if name.endswith(".tfrecord") and name not in known
    ]
    # The last key so far, by split: keys ascend within a split, across its shards.
    last_keys: dict[str, str] = {}
    for shard in manifest.shards:
        problems += _shard_problems(join(folder, shard.name), shard, manifest=manifest, last_keys=last_keys)
        if on_shard is not None:
            on_shard(shard)
    return problems


def _shard_problems(path: str, shard: Shard, *, manifest: Manifest, last_keys: dict[str, str]) -> list[str]:
    """Checks one shard, and updates the last key of its split in `last_keys`."""
    if not exists(path):
        return [f"{path}: missing shard"]
    if (size := stamp(path)[0]) != shard.bytes:
        return [f"{path}: {size} bytes, the manifest says {shard.bytes}"]
    sha256 = hashlib.sha256()
    try:
        records = read_records(path, on_bytes=sha256.update)
        examples = [decode_example(data, manifest.spec.mel_shape) for data in records]
    except DatasetError as error:
        message = str(error)
        return [message if message.startswith(path) else f"{path}: {message}"]
    problems = []
    if sha256.hexdigest() != shard.sha256:
        problems.append(f"{path}: content differs from the manifest's checksum")
    if len(examples) != shard.examples:
        problems.append(f"{path}: {len(examples)} examples, the manifest says {shard.examples}")
    if Counter(example.variant for example in examples) != Counter(shard.variants):
        problems.append(f"{path}: its variants are not those of the manifest")
    before = last_keys.get(shard.split, "")
    problems += _key_problems(path, examples, before=before)
    last_keys[shard.split] = examples[-1].key if examples else before
    problems += [
        f"{path}: example {example.key} has label {example.label}, but the dataset has {len(manifest.labels)} labels"
        for example in examples
        if not 0 <= example.label < len(manifest.labels)
    ]
    return problems


def _key_problems(path: str, examples: Iterable[Example], *, before: str) -> list[str]:
    problems = []
    for example in examples:
        if example.key == before:
            problems.append(f"{path}: example {example.key} is in the dataset twice")
        elif example.key < before:
            problems.append(f"{path}: example {example.key} is not in key order")
        before = example.key
    return problems
