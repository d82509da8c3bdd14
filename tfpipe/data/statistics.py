"""Counts and levels of a dataset folder, which `tfpipe inspect` shows. Does not load TensorFlow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfpipe.data.manifest import SPLITS, Folder, load_manifest, read_examples, read_skipped, read_tracks
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
    skipped = Counter(row.code for row in read_skipped(folder))
    variants: Counter[str] = Counter()
    for shard in manifest.shards:
        variants.update(shard.variants)
    # By label or split: a corpus may have so many tracks and labels that each may be looked at once only.
    tracks, label_tracks, windows = Counter[str](), Counter[str](), Counter[str]()
    silent, unused_s, seconds = 0, 0.0, 0.0
    for track in read_tracks(folder):
        tracks[track.split] += 1
        label_tracks[track.label] += 1
        windows[track.label] += track.windows
        silent, unused_s, seconds = silent + track.silent, unused_s + track.unused_s, seconds + track.seconds
    return {
        "examples": sum(shard.examples for shard in manifest.shards),
        "tracks": tracks.total(),
        "windows": windows.total(),
        "silent_windows": silent,
        "unused_seconds": round(unused_s, 3),
        "seconds": round(seconds, 3),
        "labels": {label: {"tracks": label_tracks[label], "windows": windows[label]} for label in manifest.labels},
        "splits": {
            split: {
                "examples": manifest.examples(split),
                "tracks": tracks[split],
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
    measured: defaultdict[tuple[str, int], _Sums] = defaultdict(_Sums)
    for shard, example in read_examples(folder, manifest):
        bands = linear[example.mel].sum(axis=1)
        measured[shard.split, example.label].add(
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
            label: measured[split, index].summary()
            for index, label in enumerate(manifest.labels)
            if (split, index) in measured
        }
        for split in SPLITS
    }


class _Sums:
    """Sums of what is measured, so that memory does not grow with the number of examples."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros(len(_Measured._fields))
        self._least, self._most = np.inf, -np.inf

    def add(self, row: _Measured) -> None:
        """Adds one example."""
        self._count += 1
        self._sums += row
        self._least, self._most = min(self._least, row.ref_db), max(self._most, row.ref_db)

    def summary(self) -> dict[str, Any]:
        """Returns the means, and the range of the levels."""
        mean = _Measured(*map(float, self._sums / self._count))
        return {
            "examples": self._count,
            "ref_db": {
                "mean": round(mean.ref_db, 3),
                "min": round(float(self._least), 3),
                "max": round(float(self._most), 3),
            },
            "mel_mean": round(mean.mel_mean, 4),
            "centroid_hz": round(mean.centroid_hz, 1),
            "floor_share": round(mean.floor_share, 4),
        }
