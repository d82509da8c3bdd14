"""Examples that the scan makes, so that the shard writer need not decode a recording again.

The scan has each window in memory. It makes the window's examples at once, for
the split that the track most likely gets, and keeps them in files beside the unfinished shards. The shard writer copies
what it finds there, and computes the rest from the recording. So each of these files may
be missing, cut or of another split: the dataset is the same. Loads no Beam.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_jobs.config import PreprocessConfig
from beam_jobs.corpus import AudioFile
from beam_jobs.engines import Window, cached_maker
from beam_jobs.metrics import Meter
from beam_jobs.plan import ShardPlan, example_key
from beam_jobs.splits import split_of, unit_of
from beam_jobs.variants import Variant
from tfpipe.data.records import Example, encode_example, write_record
from tfpipe.features.log_mel import quantise

# Windows of a track that a file holds at most. A shard that begins inside a track reads up to this many in vain.
_WINDOWS = 256
_BUFFER = 2**20


def make_examples(
    window: Window, keys: Mapping[str, Variant], config: PreprocessConfig, *, track: str
) -> dict[str, Example]:
    """Computes examples of one window, with label 0.

    Args:
        window: the window.
        keys: the variants to make, by the examples' keys.
        config: the job's settings.
        track: content hash of the track.

    Returns:
        The examples by key.
    """
    maker = cached_maker(config.spec, tuple(keys.values()), config.engine)
    return {
        key: Example(
            mel=quantise(features.mel),
            ref_db=features.ref_db,
            label=0,
            track=track,
            start_s=window.start / config.spec.sample_rate,
            variant=variant.name,
            key=key,
        )
        for (key, variant), features in zip(keys.items(), maker.log_mels(window, list(keys)), strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class EarlyExamples:
    """The folder of the examples that scans have made.

    Attributes:
        folder: local folder; it need not exist.
        config: the job's settings.
        least_free: bytes of the disk that stay free; a scan keeps nothing more once there are fewer.
        splits: splits that are decided, by content hash.
    """

    folder: str
    config: PreprocessConfig
    least_free: int = 0
    splits: Mapping[str, str] = field(default_factory=dict)

    def of(self, file: AudioFile, track: str, meter: Meter) -> EarlyTrack:
        """Returns what keeps the examples of a file that is being scanned; `track` is its content hash."""
        split = file.split or self.splits.get(track) or split_of(unit_of(track, file.group), self.config)
        variants = self.config.variants(split)
        from_spectrum = self.config.engine == "spectral" and not any(variant.needs_samples for variant in variants)
        # What must be made from samples takes so long that decoding again is little beside it. Made by the scan,
        # the windows of one long file would have to wait for each other.
        return EarlyTrack(self, track, variants if from_spectrum else (), meter)

    def path(self, track: str, start: int) -> str:
        """Returns the file that may hold the examples of a window."""
        spec = self.config.spec
        step = max(1, round((self.config.hop_s or spec.window_s) * spec.sample_rate))
        return os.path.join(self.folder, f"{track}-{start // (_WINDOWS * step):06d}")

    def remove_used(self, plan: ShardPlan) -> None:
        """Removes the files of a finished shard, except the first and the last, which other shards may need too."""
        used = dict.fromkeys(self.path(track.hash, start) for track in plan.tracks for start in track.starts)
        for path in list(used)[1:-1]:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def make_room(self, error: BaseException) -> bool:
        """Removes all files if an error says that the disk is full; returns whether to try again.

        Another worker may have removed them just now, so this does not depend on what is still there.
        """
        cause = error.__cause__
        is_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full:
            shutil.rmtree(self.folder, ignore_errors=True)
        return is_full


class EarlyTrack:
    """Makes the examples of one track while the track is scanned, and keeps them in files. Use it in a `with` block.

    If the disk is nearly full, it stops without an error; the shard writer then computes the missing examples.
    """

    def __init__(self, home: EarlyExamples, track: str, variants: tuple[Variant, ...], meter: Meter) -> None:
        self._home, self._track, self._variants, self._meter = home, track, variants, meter
        self._open: BinaryIO | None = None
        self._temporary: dict[str, str] = {}

    def add(self, start: int, audio: NDArray[np.floating[Any]]) -> None:
        """Makes and keeps the examples of the window `[samples]` that starts at sample `start`, after those before."""
        if not self._variants:
            return
        try:
            os.makedirs(self._home.folder, exist_ok=True)
            if shutil.disk_usage(self._home.folder).free < self._home.least_free:
                self._stop()
                return
            file = self._file(self._home.path(self._track, start))
            keys = {example_key(self._track, start, variant): variant for variant in self._variants}
            window = Window(start, start + len(audio), lambda first, count: audio)
            with self._meter.timed("features"):
                made = make_examples(window, keys, self._home.config, track=self._track)
            with self._meter.timed("write"):
                for example in made.values():
                    write_record(file, encode_example(example))
        except OSError:
            self._stop()

    def keep(self) -> None:
        """Gives the files their names, so that shard writers find them."""
        self._close()
        with contextlib.suppress(OSError):
            for path, temporary in self._temporary.items():
                os.replace(temporary, path)

    def __enter__(self) -> EarlyTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        for temporary in self._temporary.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _file(self, path: str) -> BinaryIO:
        if path not in self._temporary:
            self._close()
            folder, name = os.path.split(path)
            self._temporary[path] = os.path.join(folder, f".{name}.tmp-{secrets.token_hex(4)}")
        if self._open is None:
            self._open = open(self._temporary[path], "ab", buffering=_BUFFER)  # noqa: SIM115 - stays open
        return self._open

    def _stop(self) -> None:
        self._variants = ()
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            with contextlib.suppress(OSError):  # a record that is cut here is not used
                self._open.close()
            self._open = None


def least_free(folder: str, *, most: float, held: int = 0) -> int | None:
    """Returns how many bytes of a folder's disk must stay free if a job may use `most` bytes, and at most half.

    Args:
        folder: a folder on the disk.
        most: bytes.
        held: bytes that a killed job has used already.

    Returns:
        None if nothing may be used.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    used = int(min(most, (free + held) / 2)) - held
    return free - used if used > 0 else None
