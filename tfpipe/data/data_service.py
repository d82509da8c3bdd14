"""Spreading the input pipeline over processes of tf.data service, in the same order as without.

Each address is a dispatcher with a single worker (`scripts/data_service` starts
such pairs). All of them read the records; the n-th parses and augments every
n-th batch, and the batches come back in turn. So order, position and result
are those of a pipeline in one process, whatever the number of addresses. Every
batch brings its number along and is checked, so that a second worker, or one
that began anew, is an error and no silent repetition.

TensorFlow is loaded only by `spread` and `main`.
"""

from __future__ import annotations

import argparse
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.process import exit_status

if TYPE_CHECKING:
    import tensorflow as tf

_ADDRESS = re.compile(r"grpc://([^/:]+):(\d{1,5})")
_POLL_S = 5.0
# A batch, or the error that came in its place.
_Given = queue.Queue[tuple[Any, BaseException | None]]


def addresses(text: str) -> tuple[str, ...]:
    """Returns the addresses in a comma-separated list, empty for none.

    Raises:
        UsageError: one of them is no grpc://HOST:PORT, or stands there twice.
    """
    found = tuple(filter(None, text.split(",")))
    for address in found:
        if not _ADDRESS.fullmatch(address) or found.count(address) > 1:
            raise UsageError(
                f"data service {address!r}: use grpc://HOST:PORT, several different ones with commas between them"
            )
    return found


def spread(
    batches: tf.data.Dataset, finish: Callable[[Any], Any], *, service: tuple[str, ...], total: int
) -> tf.data.Dataset:
    """Runs a pipeline, and a last stage of it, in other processes.

    Args:
        batches: the pipeline, which each process runs whole.
        finish: what is done to each of its elements, which the processes divide.
        service: the addresses of the processes.
        total: the number of elements.

    Returns:
        As `batches.map(finish)`.

    Raises:
        TfpipeError: a process does not answer.
    """
    import tensorflow as tf

    require_alive(service)

    def by(index: int) -> tf.data.Dataset:
        mine = batches.enumerate().shard(len(service), index)
        done = mine.map(
            lambda number, batch: (number, finish(batch)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        # No compression: the processes are near, and packing takes longer than sending.
        return done.apply(tf.data.experimental.service.distribute("parallel_epochs", service[index], compression=None))

    def checked(wanted: tf.Tensor, element: tuple[tf.Tensor, Any]) -> Any:
        number, batch = element
        message = "a process of the data service has begun anew, or has more than one worker"
        with tf.control_dependencies([tf.debugging.assert_equal(number, wanted, message)]):
            return tf.nest.map_structure(tf.identity, batch)

    turns = tf.data.Dataset.range(total).map(lambda number: number % len(service))
    merged = tf.data.Dataset.choose_from_datasets([by(index) for index in range(len(service))], turns)
    return tf.data.Dataset.zip((tf.data.Dataset.range(total), merged)).map(checked)


def watched(batches: Iterable[Any], service: tuple[str, ...]) -> Iterator[Any]:
    """Yields what `batches` gives, and gives up where it waits for a process that is gone.

    TensorFlow itself goes on trying for ever.

    Raises:
        TfpipeError: a process of the service does not answer any more.
    """
    if not service:
        yield from batches
        return
    given: _Given = queue.Queue(1)
    stopped = threading.Event()
    threading.Thread(target=_read, args=(batches, given, stopped), daemon=True).start()
    try:
        while True:
            try:
                batch, error = given.get(timeout=_POLL_S)
            except queue.Empty:
                _give_up_on_the_dead(service)
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch
    finally:
        stopped.set()


def _read(
    batches: Iterable[Any], given: queue.Queue[tuple[Any, BaseException | None]], stopped: threading.Event
) -> None:
    def give(batch: Any, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                return given.put((batch, error), timeout=_POLL_S)
            except queue.Full:
                continue

    try:
        iterator = iter(batches)
        while not stopped.is_set():
            give(next(iterator))
    except BaseException as error:
        give(None, error)


def _give_up_on_the_dead(service: tuple[str, ...]) -> None:
    try:
        require_alive(service)
    except TfpipeError:
        exit_status.at_once()  # the thread that reads cannot be stopped
        raise


def require_alive(service: tuple[str, ...]) -> None:
    """Sees whether somebody listens at each address.

    Raises:
        TfpipeError: nobody does.
    """
    for address in service:
        host, _, port = address.removeprefix("grpc://").partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_POLL_S).close()
        except (OSError, OverflowError) as error:
            raise TfpipeError(
                f"{address}: no data service answers ({error}); start it with `scripts/data_service start` and run "
                "the same command again"
            ) from error


def main(arguments: list[str]) -> int:
    """Runs one dispatcher and its worker, until it is killed."""
    parser = argparse.ArgumentParser(prog="python -m tfpipe.data.data_service", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True, help="where the dispatcher listens")
    parser.add_argument("--host", default="localhost", help="this machine's name, as training knows it (localhost)")
    args = parser.parse_args(arguments)
    import tensorflow as tf

    from tfpipe.data.file_systems import use_tensorflow_io

    use_tensorflow_io()
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=args.port))
    worker = service.WorkerServer(
        service.WorkerConfig(dispatcher_address=f"localhost:{args.port}", worker_address=f"{args.host}:%port%")
    )
    print(f"grpc://{args.host}:{args.port}", flush=True)
    while worker and dispatcher:
        time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
