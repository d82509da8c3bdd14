"""Recordings that the page has sent: each is a file of its own, the oldest are removed when there are too many."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.audio.reader import TrackReader
from tfpipe.errors import AudioError, TfpipeError, UsageError

# Recordings that are kept, their largest size in bytes, and the bytes of the disk that stay free.
_MOST_FILES, MOST_BYTES, _FREE_BYTES = 20, 4 << 30, 1 << 30


class Upload(NamedTuple):
    """A recording: its key, its name on the user's machine, where it lies here, and its length in s."""

    key: str
    name: str
    path: Path
    seconds: float


class Uploads:
    """Holds recordings. Threads may share it.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: OrderedDict[str, Upload] = OrderedDict()
        self._numbers, self._lock = itertools.count(1), threading.Lock()

    def new_path(self, name: str) -> Path:
        """Returns a path for a recording of that name; the ending stays, because decoders look at it."""
        with self._lock:
            number = next(self._numbers)
        ending = "".join(one for one in Path(name).suffix if one.isalnum() or one == ".")[:8]
        return self._folder / f"f{number}{ending}"

    def require_room(self, taken: int) -> None:
        """Refuses a recording that has become too large, or that would fill the disk.

        Raises:
            TfpipeError: see above.
        """
        if taken > MOST_BYTES:
            raise UsageError(f"the file is larger than {MOST_BYTES >> 30} GB; cut it, or use `tfpipe reconstruct`")
        if shutil.disk_usage(self._folder).free < _FREE_BYTES:
            raise TfpipeError(f"{self._folder}: the disk is almost full; free some space and drop the file again")

    def add(self, name: str, path: Path) -> Upload:
        """Adds a file that lies at `path`; it is removed if it is no recording.

        Raises:
            AudioError: it cannot be read as audio.
        """
        shown = Path(name.replace("\\", "/")).name[:100] or "recording"
        try:
            with TrackReader(path) as reader:
                seconds = float(reader.info.seconds)
        except AudioError as error:
            path.unlink(missing_ok=True)
            raise AudioError(error.code, str(error).replace(str(path), shown)) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        upload = Upload(path.stem, shown, path, seconds)
        with self._lock:
            self._files[upload.key] = upload
            gone = [self._files.popitem(last=False)[1] for _ in range(len(self._files) - _MOST_FILES)]
        for old in gone:
            old.path.unlink(missing_ok=True)
        return upload

    def get(self, key: Any) -> Upload:
        """Returns a recording.

        Raises:
            UsageError: there is none of that key.
        """
        with self._lock:
            if isinstance(key, str) and key in self._files:
                return self._files[key]
        raise UsageError("this recording is no longer here (the newest 20 are, until the studio ends); drop it again")
