"""Finds the examples of a track in a dataset, and makes them audible (the sound needs TensorFlow)."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.data.manifest import Folder, Track, load_manifest, load_tracks
from tfpipe.data.records import Example, decode_example, is_original, read_records
from tfpipe.data.window_sources import Recordings
from tfpipe.errors import DatasetError, UsageError, translate_os_errors
from tfpipe.features.log_mel import dequantise
from tfpipe.files.remote import join

FloatArray = NDArray[np.floating[Any]]
# Tracks whose examples are held in memory, and how many examples of a track are shown: the first ones.
_TRACKS, MOST_EXAMPLES = 8, 600
# Most tracks in one answer.
MOST_TRACKS = 100
_HASH = 16


@dataclass(frozen=True, kw_only=True)
class Found:
    """Some tracks that match what was asked for.

    Attributes:
        tracks: in the order of `tracks.jsonl`.
        total: number of all tracks that match.
    """

    tracks: list[Track]
    total: int


class Examples:
    """A dataset to look at. Threads may share it.

    Args:
        data: dataset folder, local or a URL.

    Raises:
        DatasetError: the folder is missing, incomplete or damaged.
    """

    def __init__(self, data: Folder) -> None:
        self.data, self.manifest = data, load_manifest(data)
        self._tracks = load_tracks(data)
        self._recordings = Recordings(data, self.manifest)
        self._held: OrderedDict[str, dict[str, Example]] = OrderedDict()
        self._lock, self._inverting = threading.Lock(), threading.Lock()

    def find(self, text: str = "", *, split: str = "", label: str = "", first: int = 0) -> Found:
        """Returns up to `MOST_TRACKS` tracks that match.

        Args:
            text: part of the track's path or group, in small or large letters; empty takes all.
            split: `train`, `validation` or `test`; empty takes all.
            label: label name; empty takes all.
            first: how many of the matches are passed over.
        """
        text = text.casefold()
        tracks = [
            track
            for track in self._tracks
            if (not split or track.split == split)
            and (not label or track.label == label)
            and text in f"{track.path}\n{track.group}".casefold()
        ]
        return Found(tracks=tracks[first : first + MOST_TRACKS], total=len(tracks))

    def of_track(self, key: str) -> dict[str, Example]:
        """Returns the first examples of a track by their keys, in time order; of a window, the original comes first.

        Only the shards that can hold the track are read: shards are in the order of their keys, and the manifest
        names the first and the last key of each.

        Args:
            key: the first 16 hex digits of the track's content hash.

        Raises:
            UsageError: no track has that hash.
            DatasetError: a shard is missing or damaged.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        if not any(track.hash.startswith(key) for track in self._tracks) or len(key) != _HASH:
            raise UsageError(f"no track of this dataset has the hash {key!r}; reload the page")
        found = self._read(key)
        with self._lock:
            self._held[key] = found
            while len(self._held) > _TRACKS:
                self._held.popitem(last=False)
        return found

    def example(self, key: str) -> Example:
        """Returns an example by its key.

        Raises:
            UsageError: there is none of that key.
            DatasetError: a shard is missing or damaged.
        """
        examples = self.of_track(key.partition("/")[0])
        if key not in examples:
            raise UsageError(f"the dataset has no example with the key {key!r}; reload the page")
        return examples[key]

    def name(self, key: str) -> str:
        """Returns the recording and the time of an example's window."""
        return self._recordings.name(key)

    def recorded(self, key: str) -> FloatArray | None:
        """Returns the recorded window `[samples]` of an example without a change; None if there is none to hear."""
        return self._recordings.audio(key) if is_original(key) else None

    def inverted(self, example: Example) -> FloatArray:
        """Returns the sound `[samples]` of an example's log-mel: what a perfect model would give."""
        with self._inverting:
            audio: FloatArray = self._inversion(dequantise(example.mel)[np.newaxis], np.float32(example.ref_db))
            return audio

    @functools.cached_property
    def _inversion(self) -> Any:
        import tensorflow as tf

        from tfpipe.features.inversion_tf import invert_log_mel

        inverted = tf.function(functools.partial(invert_log_mel, spec=self.manifest.spec))
        return lambda mel, ref_db: inverted(mel, tf.reshape(ref_db, [1]))[0].numpy()

    def _read(self, key: str) -> dict[str, Example]:
        found: dict[str, Example] = {}
        for shard in self.manifest.shards:
            # Manifests of other programs may lack the two keys: then the shard is searched.
            if not shard.last or shard.first[:_HASH] <= key <= shard.last[:_HASH]:
                path = join(self.data, shard.name)
                with translate_os_errors(path):
                    for data in read_records(path):
                        example = decode_example(data, self.manifest.spec.mel_shape)
                        if (shard.last and example.key[:_HASH] > key) or len(found) >= MOST_EXAMPLES:
                            break
                        if example.key[:_HASH] == key:
                            found[example.key] = example
        if not found:
            raise DatasetError(f"{self.data}: no shard holds the track {key}; run `tfpipe verify {self.data}`")
        order = sorted(found.values(), key=lambda one: (one.key.split("/")[1], not is_original(one.key), one.key))
        return {example.key: example for example in order}
