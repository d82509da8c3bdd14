"""The dataset folder, local or a URL: manifest, track list, skip list; reading, verifying, inspecting.

`dataset.json` is written last: its presence means that the dataset is
complete. Loads no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tfpipe.data.records import Example, decode_example, read_records
from tfpipe.errors import DatasetError, translate_os_errors
from tfpipe.files.remote import exists, is_remote, join, open_read, sizes, stamp
from tfpipe.files.storage import digest, read_json
from tfpipe.spec import FeatureSpec

MANIFEST = "dataset.json"
TRACKS = "tracks.jsonl"
SKIPPED = "skipped.jsonl"
SPLITS = ("train", "validation", "test")
FORMAT_VERSION = 1
# A dataset folder: a path or a URL; never a Path of a URL, which loses one of its slashes.
Folder = str | Path


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One TFRecord file.

    Attributes:
        name: file name, `train-00000-of-00002.tfrecord`.
        split: `train`, `validation` or `test`.
        examples: number of records.
        bytes: size of the file.
        sha256: checksum of the file.
        variants: number of examples by variant.
        first: key of the first example.
        last: key of the last example.
    """

    name: str
    split: str
    examples: int
    bytes: int
    sha256: str
    variants: Mapping[str, int]
    first: str = ""
    last: str = ""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One line of `tracks.jsonl`.

    Attributes:
        path: where the track was found, relative to its input folder.
        hash: content hash, hex.
        label: label name.
        split: `train`, `validation` or `test`.
        seconds: length in s.
        windows: number of windows kept.
        silent: number of windows dropped as silent.
        variants: number of variants made of each window.
        unused_s: seconds in no window.
        group: tracks of one group lie in one split; empty for none.
    """

    path: str
    hash: str
    label: str
    split: str
    seconds: float
    windows: int
    silent: int
    variants: int
    unused_s: float = 0.0
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """One line of `skipped.jsonl`: a file that gave no track, and why."""

    path: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`dataset.json`.

    Attributes:
        spec: the feature spec of every example.
        labels: label names; an example's label is an index into them.
        shards: every shard, in name order.
        config: the job's full configuration (informative).
        versions: tool versions (informative).
    """

    spec: FeatureSpec
    labels: tuple[str, ...]
    shards: tuple[Shard, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that training sees; paths and versions stay out."""
        shards = [(shard.name, shard.examples, shard.sha256) for shard in self.shards]
        return digest({"spec": self.spec.fingerprint, "labels": self.labels, "shards": shards})

    def split_shards(self, split: str) -> tuple[Shard, ...]:
        """Returns the shards of one split, in name order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def examples(self, split: str) -> int:
        """Returns the number of examples in one split."""
        return sum(shard.examples for shard in self.split_shards(split))

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `dataset.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "spec": self.spec.to_dict(),
            "spec_fingerprint": self.spec.fingerprint,
            "labels": list(self.labels),
            "splits": {split: self.examples(split) for split in SPLITS},
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "config": dict(self.config),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Builds a manifest from `to_dict` output.

        Raises:
            DatasetError: other format version, missing key, or a fingerprint
                that does not belong to the content.
        """
        if values.get("format_version") != FORMAT_VERSION:
            raise DatasetError(
                f"dataset format {values.get('format_version')!r} is not the one this tfpipe reads ({FORMAT_VERSION}); "
                "run `tfpipe preprocess` again"
            )
        try:
            manifest = cls(
                spec=FeatureSpec.from_dict(values["spec"]),
                labels=tuple(values["labels"]),
                shards=tuple(Shard(**shard) for shard in values["shards"]),
                config=values.get("config", {}),
                versions=values.get("versions", {}),
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(f"manifest lacks or misnames a field: {error}") from error
        if values.get("fingerprint") != manifest.fingerprint:
            raise DatasetError("manifest was changed after it was written (its fingerprint does not fit)")
        return manifest


def load_manifest(folder: Folder) -> Manifest:
    """Reads a complete dataset's manifest.

    Raises:
        DatasetError: the folder is missing, incomplete, or its manifest damaged.
        TfpipeError: it is out of reach.
    """
    path = join(folder, MANIFEST)
    if not is_remote(folder) and not Path(folder).is_dir():
        raise DatasetError(
            f"{folder}: no such dataset folder; make one with `tfpipe preprocess INPUT --output {folder}`"
        )
    with translate_os_errors(path):
        is_there = exists(path)
    if not is_there:
        raise DatasetError(
            f"{folder}: no complete dataset here (no {MANIFEST}); run `tfpipe preprocess INPUT --output {folder}`"
        )
    try:
        return Manifest.from_dict(read_json(path))
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def load_tracks(folder: Folder) -> list[Track]:
    """Reads `tracks.jsonl`."""
    return [Track(**row) for row in _read_lines(join(folder, TRACKS))]


def load_skipped(folder: Folder) -> list[Skipped]:
    """Reads `skipped.jsonl`."""
    return [Skipped(**row) for row in _read_lines(join(folder, SKIPPED))]


def lines(rows: list[Track] | list[Skipped]) -> bytes:
    """Returns rows as JSON lines, ready to be written."""
    text = "".join(json.dumps(dataclasses.asdict(row), sort_keys=True, ensure_ascii=True) + "\n" for row in rows)
    return text.encode()


def inspect(folder: Folder) -> dict[str, Any]:
    """Summarises a dataset folder: counts by split, variant, label and skip reason."""
    manifest = load_manifest(folder)
    tracks = load_tracks(folder)
    skipped = Counter(row.code for row in load_skipped(folder))
    variants: Counter[str] = Counter()
    for shard in manifest.shards:
        variants.update(shard.variants)
    return {
        "examples": sum(shard.examples for shard in manifest.shards),
        "tracks": len(tracks),
        "windows": sum(track.windows for track in tracks),
        "silent_windows": sum(track.silent for track in tracks),
        "unused_seconds": round(sum(track.unused_s for track in tracks), 3),
        "seconds": round(sum(track.seconds for track in tracks), 3),
        "labels": {
            label: {
                "tracks": sum(track.label == label for track in tracks),
                "windows": sum(track.windows for track in tracks if track.label == label),
            }
            for label in manifest.labels
        },
        "splits": {
            split: {
                "examples": manifest.examples(split),
                "tracks": sum(track.split == split for track in tracks),
                "shards": len(manifest.split_shards(split)),
            }
            for split in SPLITS
        },
        "variants": dict(sorted(variants.items())),
        "skipped": {"total": sum(skipped.values()), "by_reason": dict(sorted(skipped.items()))},
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "fingerprint": manifest.fingerprint,
        "spec": manifest.spec.to_dict(),
    }


def examples(folder: Folder, manifest: Manifest) -> Iterator[tuple[Shard, Example]]:
    """Yields every example with its shard, in the dataset's order.

    Raises:
        DatasetError: a missing or damaged shard.
    """
    for shard in manifest.shards:
        if not exists(path := join(folder, shard.name)):
            raise DatasetError(f"{path}: missing shard; run `tfpipe verify {folder}`")
        for data in read_records(path):
            yield shard, decode_example(data, manifest.spec.mel_shape)


def levels(folder: Folder, *, on_example: Callable[[Example], None] = lambda _: None) -> dict[str, Any]:
    """Measures every example: level and spectrum, by split and label.

    Args:
        folder: the dataset folder.
        on_example: sees each example, for progress and pictures.

    Returns:
        By split, then label: `examples`, `ref_db` (mean, min, max; dB), `mel_mean` (of [0, 1]),
        `centroid_hz` (mean of the spectral centroids, by mel magnitude) and `floor_share` (of the codes).

    Raises:
        DatasetError: no complete dataset, or a missing or damaged shard.
    """
    from librosa import mel_frequencies  # takes a second, which the rest of this module does without

    manifest = load_manifest(folder)
    found: defaultdict[tuple[str, int], list[tuple[float, ...]]] = defaultdict(list)
    spec = manifest.spec
    centres = mel_frequencies(spec.n_mels + 2, fmin=spec.fmin, fmax=spec.fmax)[1:-1]
    # What a code stands for, in magnitude or power as the spec has it.
    linear = 10.0 ** ((np.arange(256) / 255.0 - 1.0) * spec.top_db / 10.0)
    for shard, example in examples(folder, manifest):
        bands = linear[example.mel].sum(axis=1)
        centroid = float(bands @ centres / bands.sum())
        floor = np.count_nonzero(example.mel == 0) / example.mel.size
        found[shard.split, example.label].append((example.ref_db, float(example.mel.mean()) / 255.0, centroid, floor))
        on_example(example)
    return {
        split: {
            label: _levels(found[split, index]) for index, label in enumerate(manifest.labels) if found[split, index]
        }
        for split in SPLITS
    }


def _levels(rows: list[tuple[float, ...]]) -> dict[str, Any]:
    ref_db, mel_means, centroids, floors = zip(*rows, strict=True)
    return {
        "examples": len(rows),
        "ref_db": {"mean": round(fmean(ref_db), 3), "min": round(min(ref_db), 3), "max": round(max(ref_db), 3)},
        "mel_mean": round(fmean(mel_means), 4),
        "centroid_hz": round(fmean(centroids), 1),
        "floor_share": round(fmean(floors), 4),
    }


def verify(folder: Folder, *, on_shard: Callable[[Shard], None] | None = None) -> list[str]:
    """Checks every byte of a dataset folder against its manifest.

    Args:
        folder: the dataset folder.
        on_shard: called after each shard, for progress.

    Returns:
        One sentence per problem, naming the file; empty when the dataset is whole.

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
    last: dict[str, str] = {}
    for shard in manifest.shards:
        problems += _verify_shard(join(folder, shard.name), shard, manifest=manifest, last=last)
        if on_shard is not None:
            on_shard(shard)
    return problems


def _verify_shard(path: str, shard: Shard, *, manifest: Manifest, last: dict[str, str]) -> list[str]:
    """Checks one shard; `last` holds the last key of each split so far, since keys ascend through its shards."""
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
    for example in examples:
        before, last[shard.split] = last.get(shard.split, ""), example.key
        if example.key == before:
            problems.append(f"{path}: example {example.key} stands twice in the dataset")
        elif example.key < before:
            problems.append(f"{path}: example {example.key} is not in key order")
    problems += [
        f"{path}: example {example.key} has label {example.label}, there are {len(manifest.labels)}"
        for example in examples
        if not 0 <= example.label < len(manifest.labels)
    ]
    return problems


def _read_lines(path: str) -> list[dict[str, Any]]:
    try:
        with open_read(path) as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); run `tfpipe verify` and preprocess again") from error
