"""Who computes when: requests that wait in line, bounded, and leave it when nobody waits for them any more."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from serving.protocol.status import Code, StatusError


class Call:
    """One client waiting for an answer.

    Args:
        timeout_s: how long it waits, in s; None is for ever.
        has_left: tells whether the client has gone; asked before work begins.
        alone: it is not to be computed together with others.
        waited_s: time since it came, in s.

    Attributes:
        runtime_s: time that the model took for it so far, in s.
        fits_others: rows of requests like it may be computed together; known once it was answered.
    """

    def __init__(
        self,
        timeout_s: float | None = None,
        *,
        has_left: Callable[[], bool] = lambda: False,
        alone: bool = False,
        waited_s: float = 0.0,
    ) -> None:
        self.alone, self.waited_s = alone, waited_s
        self.fits_others = False
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._has_left = has_left
        self.runtime_s = 0.0
        self._ended = False
        self._wake: Callable[[], None] = lambda: None

    def end(self) -> None:
        """Says that the client has gone; a wait in line ends at once."""
        self._ended = True
        self._wake()

    def remaining_s(self) -> float | None:
        """Returns how long the client will still wait, in s."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Stops work that nobody waits for.

        Raises:
            StatusError: DEADLINE_EXCEEDED or CANCELLED.
        """
        if self.remaining_s() == 0.0:
            raise StatusError(Code.DEADLINE_EXCEEDED, "The deadline passed before the request was answered.")
        if self._ended or self._has_left():
            raise StatusError(Code.CANCELLED, "The client has left.")

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time of its block to `runtime_s`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.runtime_s += time.monotonic() - started

    def wait(self, event: threading.Event) -> None:
        """Waits for an event, or until the client has gone or its deadline has passed."""
        self._wake = event.set
        if not self._ended:
            event.wait(self.remaining_s())


class Line:
    """A line in order of arrival: so many rows compute, so many wait, the rest is refused at once.

    Args:
        inside: rows that compute at the same time.
        waiting: rows that may wait.
    """

    def __init__(self, *, inside: int, waiting: int) -> None:
        self._inside, self._free, self._places = inside, inside, waiting
        self._queue: deque[_Ticket] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, call: Call, rows: int = 1) -> Iterator[None]:
        """Holds a turn for some rows; more rows than fit inside take all of it.

        Raises:
            StatusError: UNAVAILABLE when too many wait; DEADLINE_EXCEEDED or CANCELLED when the turn comes too late.
        """
        ticket = _Ticket(min(rows, self._inside))
        self._enter(ticket)
        try:
            call.check()
            while not ticket.inside:
                call.wait(ticket.woken)
                call.check()
            yield
        finally:
            self._leave(ticket)

    def _enter(self, ticket: _Ticket) -> None:
        with self._lock:
            if not self._queue and ticket.rows <= self._free:
                self._admit(ticket)
            elif sum(other.rows for other in self._queue) + ticket.rows > self._places:
                raise StatusError(
                    Code.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"
                )
            else:
                self._queue.append(ticket)

    def _leave(self, ticket: _Ticket) -> None:
        with self._lock:
            if ticket.inside:
                self._free += ticket.rows
            else:
                self._queue.remove(ticket)
            while self._queue and self._queue[0].rows <= self._free:
                self._admit(self._queue.popleft())

    def _admit(self, ticket: _Ticket) -> None:
        self._free -= ticket.rows
        ticket.inside = True
        ticket.woken.set()


class _Ticket:
    """A place in line; `woken` is set when its turn comes, or by a client that leaves."""

    def __init__(self, rows: int) -> None:
        self.rows, self.inside, self.woken = rows, False, threading.Event()
