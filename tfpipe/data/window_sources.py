"""The recordings that a dataset's windows were cut from: their names, and their sound if they are still there."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tfpipe.audio.reader import read_window
from tfpipe.data.manifest import Folder, Manifest, Track, load_tracks
from tfpipe.errors import TfpipeError
from tfpipe.files.remote import join

# A key holds this many characters of the track's hash.
_HASH = 16


class Recordings:
    """Finds the recording of a window by the window's key.

    Args:
        data: dataset folder, local or a URL.
        manifest: its manifest, which says where the recordings were.
    """

    def __init__(self, data: Folder, manifest: Manifest) -> None:
        self._tracks = {track.hash[:_HASH]: track for track in load_tracks(data)}
        self._base, self._spec = manifest.config.get("base"), manifest.spec

    def track(self, key: str) -> Track:
        """Returns the track of the window with this key."""
        return self._tracks[key.partition("/")[0]]

    def start_s(self, key: str) -> float:
        """Returns where the window begins, in s."""
        return int(key.split("/")[1]) / self._spec.sample_rate

    def name(self, key: str) -> str:
        """Returns the recording and the time of a window, such as `Piano/song.wav, 5 to 10 s`."""
        start = self.start_s(key)
        return f"{self.track(key).path}, {start:.3g} to {start + self._spec.window_s:.3g} s"

    def audio(self, key: str) -> NDArray[Any] | None:
        """Returns the recorded window `[samples]`, or None if the recording cannot be read any more."""
        if self._base is None:
            return None
        try:
            return read_window(join(self._base, self.track(key).path), start_s=self.start_s(key), spec=self._spec)
        except (TfpipeError, OSError):
            return None
