"""The dataset folder's own files: `dataset.json`, `tracks.jsonl`, `skipped.jsonl`, and how they are read and written.

`dataset.json` is written last, so its presence means that the dataset is
complete. The folder may be local or at a URL. This module does not load
TensorFlow. docs/FORMATS.md describes the files for readers in other languages.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfpipe.data.records import Example, decode_example, read_records
from tfpipe.errors import DatasetError, translate_os_errors
from tfpipe.files.remote import exists, is_remote, join, open_read
from tfpipe.files.storage import digest, read_json
from tfpipe.spec import FeatureSpec

MANIFEST = "dataset.json"
TRACKS = "tracks.jsonl"
SKIPPED = "skipped.jsonl"
SPLITS = ("train", "validation", "test")
FORMAT_VERSION = 1
SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")
# A dataset folder. A URL must be a `str`, because `Path` drops one of its two slashes.
Folder = str | Path


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One TFRecord file.

    Attributes:
        name: file name, such as `train-00000-of-00002.tfrecord`.
        split: `train`, `validation` or `test`.
        examples: number of records.
        bytes: size of the file.
        sha256: checksum of the file, hex.
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
        silent: number of windows dropped because they are silent.
        variants: number of variants made of each window.
        unused_s: seconds that lie in no window.
        group: name of the track's group, or empty; all tracks of a group lie in one split.
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
    """One line of `skipped.jsonl`: a file that gave no track, and why.

    Attributes:
        path: where the file was found.
        code: the reason in one word, such as `too_short`.
        message: the reason in a sentence.
    """

    path: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `dataset.json`.

    Attributes:
        spec: the feature spec of every example.
        labels: label names; an example's label is an index into them.
        shards: every shard, in name order.
        config: the job's full configuration, for information only.
        versions: versions of the tools that made the dataset, for information only.
    """

    spec: FeatureSpec
    labels: tuple[str, ...]
    shards: tuple[Shard, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that training sees, without paths and versions."""
        shards = [(shard.name, shard.examples, shard.sha256) for shard in self.shards]
        return digest({"spec": self.spec.fingerprint, "labels": self.labels, "shards": shards})

    def split_shards(self, split: str) -> tuple[Shard, ...]:
        """Returns the shards of one split, in name order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def examples(self, split: str) -> int:
        """Returns the number of examples in one split."""
        return sum(shard.examples for shard in self.split_shards(split))

    @property
    def judged_by(self) -> list[str]:
        """The splits by which a run can be judged, the best one first."""
        return held_out_first({split: self.examples(split) for split in SPLITS})

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
        """Builds a manifest from the output of `to_dict`.

        Raises:
            DatasetError: the format version is another one, a key is missing, or
                the fingerprint does not belong to the content.
        """
        if values.get("format_version") != FORMAT_VERSION:
            raise DatasetError(
                f"this tfpipe reads dataset format {FORMAT_VERSION}, not {values.get('format_version')!r}; "
                "run `tfpipe preprocess` again"
            )
        try:
            manifest = cls(
                spec=FeatureSpec.from_dict(values["spec"]),
                labels=tuple(values["labels"]),
                shards=tuple(read_shard(shard) for shard in values["shards"]),
                config=values.get("config", {}),
                versions=values.get("versions", {}),
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"a field is missing or has a wrong name: {error}; run `tfpipe preprocess` again"
            ) from error
        if values.get("fingerprint") != manifest.fingerprint:
            raise DatasetError(
                "the manifest was changed after it was written (its fingerprint does not fit); "
                "bring the old one back, or run `tfpipe preprocess` again"
            )
        return manifest


def read_shard(values: Mapping[str, Any]) -> Shard:
    """Builds a shard from a row of a manifest. Its name and its checksum become parts of paths, so they are checked.

    Raises:
        DatasetError: the name or the checksum has another form.
        TypeError: a field is missing or has a wrong name.
    """
    shard = Shard(**values)
    if not SHARD_NAME.fullmatch(str(shard.name)) or not re.fullmatch("[0-9a-f]*", str(shard.sha256)):
        raise DatasetError(
            f"shard {shard.name!r} with the checksum {shard.sha256!r}: a job never writes such names; "
            "bring the old manifest back, or run `tfpipe preprocess` again"
        )
    return shard


def held_out_first(examples: Mapping[str, int]) -> list[str]:
    """Returns the splits that have examples, in the order in which a run is judged by them: test comes first.

    Args:
        examples: number of examples by split.
    """
    return [split for split in reversed(SPLITS) if examples.get(split)]


def load_manifest(folder: Folder) -> Manifest:
    """Reads the manifest of a complete dataset.

    Raises:
        DatasetError: the folder is missing or incomplete, or its manifest is damaged.
        TfpipeError: the folder cannot be reached.
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
    """Reads `tracks.jsonl`.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    return list(read_tracks(folder))


def read_tracks(folder: Folder) -> Iterator[Track]:
    """Yields the rows of `tracks.jsonl` without holding them, for datasets with many tracks.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    return (Track(**row) for row in _read_lines(join(folder, TRACKS)))


def load_skipped(folder: Folder) -> list[Skipped]:
    """Reads `skipped.jsonl`.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    return list(read_skipped(folder))


def read_skipped(folder: Folder) -> Iterator[Skipped]:
    """Yields the rows of `skipped.jsonl` without holding them.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    return (Skipped(**row) for row in _read_lines(join(folder, SKIPPED)))


def lines(rows: Sequence[Track] | Sequence[Skipped]) -> bytes:
    """Returns rows of `tracks.jsonl` or `skipped.jsonl` as the bytes of that file."""
    text = "".join(json.dumps(vars(row), sort_keys=True, ensure_ascii=True) + "\n" for row in rows)
    return text.encode()


def read_examples(folder: Folder, manifest: Manifest) -> Iterator[tuple[Shard, Example]]:
    """Yields every example with its shard, in the dataset's order.

    Raises:
        DatasetError: a shard is missing or damaged.
    """
    for shard in manifest.shards:
        if not exists(path := join(folder, shard.name)):
            raise DatasetError(f"{path}: missing shard; run `tfpipe verify {folder}`")
        for data in read_records(path):
            yield shard, decode_example(data, manifest.spec.mel_shape)


def _read_lines(path: str) -> Iterator[dict[str, Any]]:
    try:
        with open_read(path) as file:
            yield from (json.loads(line) for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); run `tfpipe verify` and preprocess again") from error
