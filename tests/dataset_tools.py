"""Makes dataset folders without the Beam job, and compares their batches."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.data.manifest import MANIFEST, SKIPPED, TRACKS, Manifest, Shard, Skipped, Track, lines
from tfpipe.data.records import Example, encode_example, write_record
from tfpipe.spec import FeatureSpec

TINY_SPEC = FeatureSpec(n_mels=4, window_s=0.1)


def example(
    number: int, *, track: str = "0" * 64, label: int = 0, variant: str = "original", spec: FeatureSpec = TINY_SPEC
) -> Example:
    """A window whose codes and level are functions of its number."""
    return Example(
        mel=np.full(spec.mel_shape, number % 256, np.uint8),
        ref_db=float(number),
        label=label,
        track=track,
        start_s=number * spec.window_s,
        variant=variant,
        key=f"{track[:16]}/{number * spec.samples:012d}/{variant}",
    )


def write_dataset(
    folder: Path,
    shards: Mapping[str, Sequence[Example]],
    *,
    spec: FeatureSpec = TINY_SPEC,
    labels: tuple[str, ...] = ("Piano", "Voice"),
    tracks: Sequence[Track] = (),
    skipped: Sequence[Skipped] = (),
) -> Manifest:
    """Writes a complete dataset; `shards` maps names such as `train-00000-of-00001.tfrecord` to their examples."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, examples in shards.items():
        with open(folder / name, "wb") as file:
            for row in examples:
                write_record(file, encode_example(row))
        data = (folder / name).read_bytes()
        entries.append(
            Shard(
                name=name,
                split=name.partition("-")[0],
                examples=len(examples),
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                variants=dict(Counter(row.variant for row in examples)),
            )
        )
    manifest = Manifest(spec=spec, labels=labels, shards=tuple(entries))
    (folder / TRACKS).write_bytes(lines(tracks))
    (folder / SKIPPED).write_bytes(lines(skipped))
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict()))
    return manifest


def batches(folder: Path | str, **settings: Any) -> list[dict[str, np.ndarray]]:
    """The batches of `make_dataset`; by default those of four training examples, shuffled."""
    from tfpipe.data.pipeline import make_dataset

    return list(make_dataset(folder, **{"split": "train", "batch_size": 4, "seed": 3, **settings}).as_numpy_iterator())


def require_same_batches(ours: Sequence[Mapping[str, np.ndarray]], theirs: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Fails unless there are batches and all of them are equal."""
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        for name in our:
            np.testing.assert_array_equal(our[name], their[name])
