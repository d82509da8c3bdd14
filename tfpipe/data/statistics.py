"""Counts and levels of a dataset folder, which `tfpipe inspect` shows. Does not load TensorFlow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from tfpipe.data.manifest import SPLITS, Folder, load_manifest, load_skipped, load_tracks, read_examples
from tfpipe.data.records import Example
from tfpipe.features.log_mel import mel_edges


def inspect(folder: Folder) -> dict[str, Any]:
    """Counts what is in a dataset folder, without reading the examples.

    Args:
        folder: dataset folder, local or a URL.

    Returns:
        Counts of examples, tracks and windows, in all and by split, label, variant
        and reason for skipping; also `bytes`, `fingerprint` and `spec`.

    Raises:
        DatasetError: there is no complete dataset.
    """
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


class _Measured(NamedTuple):
    """One example: level in dB, mean mel in [0, 1], spectral centroid in Hz, share of its codes at the floor."""

    ref_db: float
    mel_mean: float
    centroid_hz: float
    floor_share: float


def levels(folder: Folder, *, on_example: Callable[[Example], None] = lambda _: None) -> dict[str, Any]:
    """Measures the level and the spectrum of every example, by split and label.

    Args:
        folder: dataset folder, local or a URL.
        on_example: called with each example, for progress and pictures.

    Returns:
        By split, then label: `examples`, `ref_db` (mean, min, max; dB), `mel_mean` (of [0, 1]),
        `centroid_hz` (mean of the spectral centroids, weighted by mel magnitude) and `floor_share`
        (share of the codes that are 0).

    Raises:
        DatasetError: there is no complete dataset, or a shard is missing or damaged.
    """
    manifest = load_manifest(folder)
    spec = manifest.spec
    centres_hz = mel_edges(spec)[1:-1]
    # Each 8-bit code as a magnitude, or as a power if the spec's mel is one.
    linear = 10.0 ** ((np.arange(256) / 255.0 - 1.0) * spec.top_db / 10.0)
    measured: defaultdict[tuple[str, int], list[_Measured]] = defaultdict(list)
    for shard, example in read_examples(folder, manifest):
        bands = linear[example.mel].sum(axis=1)
        measured[shard.split, example.label].append(
            _Measured(
                ref_db=example.ref_db,
                mel_mean=float(example.mel.mean()) / 255.0,
                centroid_hz=float(bands @ centres_hz / bands.sum()),
                floor_share=np.count_nonzero(example.mel == 0) / example.mel.size,
            )
        )
        on_example(example)
    return {
        split: {
            label: _summary(measured[split, index])
            for index, label in enumerate(manifest.labels)
            if measured[split, index]
        }
        for split in SPLITS
    }


def _summary(rows: list[_Measured]) -> dict[str, Any]:
    ref_db = [row.ref_db for row in rows]
    return {
        "examples": len(rows),
        "ref_db": {"mean": round(fmean(ref_db), 3), "min": round(min(ref_db), 3), "max": round(max(ref_db), 3)},
        "mel_mean": round(fmean(row.mel_mean for row in rows), 4),
        "centroid_hz": round(fmean(row.centroid_hz for row in rows), 1),
        "floor_share": round(fmean(row.floor_share for row in rows), 4),
    }
