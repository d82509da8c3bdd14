"""Whole recordings, encoded and decoded in the background, with progress; a job can be cancelled."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from serving.client.windows import overlap_samples, stitch, windows_of_file
from tfpipe.audio.level import EDGE_FADE_S
from tfpipe.audio.reader import TrackReader
from tfpipe.audio.wav import write_long_wav
from tfpipe.errors import TfpipeError, UsageError
from tfpipe.studio.shelf import FloatArray, Sound
from tfpipe.studio.studio import Studio
from tfpipe.studio.uploads import Upload

_LOG = logging.getLogger(__name__)
# Windows overlap by this much, s, as in `tfpipe reconstruct`.
_OVERLAP_S = 0.5
# Windows in one call of the model: about 2 s on two cores.
_ROWS = 8
# Jobs that wait or run, and ended ones whose result can still be asked for.
_MOST_OPEN, _MOST = 4, 50


class _CancelledError(Exception):
    """Ends a job from inside."""


class Job:
    """One recording being rebuilt.

    Attributes:
        key: its name.
        upload: the recording.
        done: windows that are done.
        total: all windows; 0 until the recording has been looked at.
        sound: the result.
        error: why it failed; empty if it has not.
        state: `waiting`, `running`, `done`, `failed` or `cancelled`.
    """

    def __init__(self, key: str, upload: Upload) -> None:
        self.key, self.upload = key, upload
        self.done, self.total, self.error, self.state = 0, 0, "", "waiting"
        self.sound: Sound | None = None
        self.cancelled = threading.Event()


class Jobs:
    """Runs jobs one after another, each in a thread of its own.

    Args:
        studio: has the model and the shelf.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._numbers, self._lock, self._turn = itertools.count(1), threading.Lock(), threading.Lock()

    def start(self, file: Any) -> Job:
        """Begins to rebuild a recording.

        Raises:
            UsageError: there is no such recording, or too many jobs are open.
        """
        upload = self._studio.uploads.get(file)
        with self._lock:
            if sum(job.state in ("waiting", "running") for job in self._jobs.values()) >= _MOST_OPEN:
                raise UsageError(f"{_MOST_OPEN} recordings are being rebuilt; wait for one, or cancel it")
            job = Job(f"j{next(self._numbers)}", upload)
            self._jobs[job.key] = job
            while len(self._jobs) > _MOST:
                self._jobs.popitem(last=False)
        threading.Thread(target=self._run, args=(job,), name=f"studio-{job.key}", daemon=True).start()
        return job

    def get(self, key: str) -> Job:
        """Returns a job.

        Raises:
            UsageError: there is none of that key.
        """
        with self._lock:
            if key in self._jobs:
                return self._jobs[key]
        raise UsageError("this job is no longer known; start it again")

    def stop(self) -> None:
        """Cancels all jobs."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()

    def _run(self, job: Job) -> None:
        with self._turn:
            try:
                self._require_wanted(job)
                job.state = "running"
                job.sound = self._rebuild(job)
                job.state = "done"
            except _CancelledError:
                job.state = "cancelled"
            except TfpipeError as error:
                job.error, job.state = str(error).replace(str(job.upload.path), job.upload.name), "failed"
            except Exception as error:  # the page must hear of it
                _LOG.exception("a recording could not be rebuilt")
                job.error, job.state = f"{job.upload.name}: unexpected {type(error).__name__}: {error}", "failed"

    def _rebuild(self, job: Job) -> Sound:
        studio, upload = self._studio, job.upload
        spec = studio.spec
        overlap = overlap_samples(spec, _OVERLAP_S)
        with TrackReader(upload.path) as reader:
            hop_s = spec.window_s - overlap / spec.sample_rate
            job.total = len(reader.plan(spec=spec, hop_s=hop_s, min_fill=0.0))
        first: list[FloatArray] = []
        levels: list[float] = []

        def rebuilt() -> Iterator[tuple[int, FloatArray]]:
            windows = windows_of_file(upload.path, spec, overlap_s=_OVERLAP_S)
            while batch := list(itertools.islice(windows, _ROWS)):
                self._require_wanted(job)
                with studio.computing:  # other actions get their turn between two batches
                    encoded = studio.vae.encode_audio(np.stack([window.audio for window in batch]))
                    first.extend(studio.vae.decode(encoded.z_mean[: 1 - len(first)]))
                    audio = studio.vae.decode_audio(encoded.z_mean, encoded.ref_db)
                levels.extend(encoded.ref_db.tolist())
                yield from zip((round(one.start_s * spec.sample_rate) for one in batch), audio, strict=True)
                job.done += len(batch)

        path = studio.shelf.new_path()
        samples = write_long_wav(path, stitch(rebuilt(), overlap=overlap), spec.sample_rate, fade_s=EDGE_FADE_S)
        return studio.shelf.put(
            path,
            seconds=samples / spec.sample_rate,
            title=f"{upload.name}, all of it rebuilt",
            mel=first[0],
            recipe=studio.recipes.whole(upload.name),
            z=None,
            ref_db=max(levels),
        )

    @staticmethod
    def _require_wanted(job: Job) -> None:
        if job.cancelled.is_set():
            raise _CancelledError
