"""The newest files of a folder, each with what is known of it; the oldest are removed when there are too many."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Generic, TypeVar

from tfpipe.errors import UsageError

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """Holds files. Threads may share it.

    Args:
        folder: where they lie.
        prefix: beginning of their names, which a number follows. A name without its ending is the file's key.
        most: files that are held.
        most_bytes: bytes of all files; the newest one may be larger.
        gone: the message if a file is not there, or not any more.
    """

    def __init__(self, folder: Path, *, prefix: str, most: int, most_bytes: int, gone: str) -> None:
        self.folder = folder
        self._prefix, self._most, self._most_bytes, self._gone = prefix, most, most_bytes, gone
        self._held: OrderedDict[str, tuple[Path, int, Item]] = OrderedDict()
        self._numbers, self._lock = itertools.count(1), threading.Lock()

    def new_path(self, ending: str) -> Path:
        """Returns a path for a file that is then `put`."""
        with self._lock:
            return self.folder / f"{self._prefix}{next(self._numbers)}{ending}"

    def put(self, path: Path, item: Item) -> None:
        """Holds the file that lies at a `new_path`, and what is known of it."""
        size = path.stat().st_size
        with self._lock:
            self._held[path.stem] = path, size, item
            gone = self._too_many()
        for old in gone:
            old.unlink(missing_ok=True)

    def get(self, key: Any) -> Item:
        """Returns what is known of a file.

        Raises:
            UsageError: there is none of that key.
        """
        with self._lock:
            if isinstance(key, str) and key in self._held:
                return self._held[key][2]
        raise UsageError(self._gone)

    def _too_many(self) -> list[Path]:
        """Forgets the oldest files until the others are few and small enough; the newest always stays."""
        gone, total = [], sum(size for _, size, _ in self._held.values())
        while len(self._held) > 1 and (len(self._held) > self._most or total > self._most_bytes):
            path, size, _ = self._held.popitem(last=False)[1]
            gone.append(path)
            total -= size
        return gone
