"""Writes what a run saves in a thread, while the next steps run. Loads no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Writer:
    """Does one piece of writing at a time, in the order given.

    A piece is given with copies of all that it needs, so the run may go on and change its own. An error of a piece is
    raised when the next one is given, or at the end. Leaving the `with` block waits for the last piece.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tfpipe-save")
        self._last: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.wait()
        except BaseException:
            if error is None:  # an earlier error of the run says more than this one
                raise
        finally:
            self._thread.shutdown()

    def give(self, piece: Callable[[], None]) -> None:
        """Waits for the piece before, and starts this one.

        Raises:
            Exception: the piece before failed with it.
        """
        self.wait()
        self._last = self._thread.submit(piece)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            Exception: a piece failed with it.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()
