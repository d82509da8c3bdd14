"""Recordings that the page has sent: each is a file of its own, the oldest are removed when there are too many."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.audio.reader import TrackReader
from tfpipe.errors import AudioError, TfpipeError, UsageError
from tfpipe.studio.newest import Newest

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
        gone = f"this recording is no longer here (the newest {_MOST_FILES} are, until the studio ends); drop it again"
        self._files: Newest[Upload] = Newest(
            folder, prefix="f", most=_MOST_FILES, most_bytes=_MOST_FILES * MOST_BYTES, gone=gone
        )

    def new_path(self, name: str) -> Path:
        """Returns a path for a recording of that name; the ending stays, because decoders look at it."""
        return self._files.new_path("".join(one for one in Path(name).suffix if one.isalnum() or one == ".")[:8])

    def require_room(self, taken: int) -> None:
        """Refuses a recording that has become too large, or that would fill the disk.

        Raises:
            TfpipeError: see above.
        """
        if taken > MOST_BYTES:
            raise UsageError(f"the file is larger than {MOST_BYTES >> 30} GB; cut it, or use `tfpipe reconstruct`")
        if shutil.disk_usage(self._files.folder).free < _FREE_BYTES:
            raise TfpipeError(f"{self._files.folder}: the disk is almost full; free some space and drop the file again")

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
        self._files.put(path, upload)
        return upload

    def get(self, key: Any) -> Upload:
        """Returns a recording.

        Raises:
            UsageError: there is none of that key.
        """
        return self._files.get(key)
