"""Answers on their way, bounded: clients that do not read cannot fill the memory, nor keep it for ever."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

from serving.protocol.status import Code, StatusError


class Outbox:
    """Counts the bytes of answers that their clients have not taken yet.

    Args:
        limit: bytes of all answers together; a single one may be larger.
        patience_s: how long an answer keeps its room once others need it, in s.
    """

    def __init__(self, *, limit: int, patience_s: float = 60.0) -> None:
        self._limit, self._patience_s = limit, patience_s
        self._lock = threading.Lock()
        self._used, self._number = 0, 0
        # Number of the answer: since when, how many bytes, and how to give the answer up. In order of arrival.
        self._held: dict[int, tuple[float, int, Callable[[], object]]] = {}

    def put(self, size: int, drop: Callable[[], object]) -> Callable[[], None]:
        """Takes room for an answer; returns what gives it back, which may be called more than once.

        Args:
            size: of the answer, in bytes.
            drop: gives the answer up, so that its room comes back.

        Raises:
            StatusError: UNAVAILABLE when there is no room; answers that have waited too long are given up.
        """
        now = time.monotonic()
        with self._lock:
            if not self._used or self._used + size <= self._limit:
                self._number += 1
                self._used += size
                self._held[self._number] = (now, size, drop)
                return functools.partial(self._give_back, self._number)
            late = [old for since, _, old in self._held.values() if now - since > self._patience_s]
        for old in late:
            old()
        raise StatusError(Code.UNAVAILABLE, "Too many answers wait for clients that do not read them")

    def _give_back(self, number: int) -> None:
        with self._lock:
            _, size, _ = self._held.pop(number, (0.0, 0, None))
            self._used -= size
