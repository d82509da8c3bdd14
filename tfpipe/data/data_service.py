"""Spreads the input pipeline over processes of tf.data service, and keeps its order.

Each process is a dispatcher with a single worker, at an address of its own
(`tfpipe data-service` starts them, `serve` is such a process). All of them
read all records; the first of n processes parses and augments batches 0, n,
2n and so on, the second 1, n + 1 and so on, and the batches come back in turn.
Order, position and result are therefore those of a pipeline in one process, for
any number of processes. Each batch carries its number, which is checked: a
second worker, or a worker that was restarted, would repeat batches, and is an
error.

Only `spread` and `serve` load TensorFlow.
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
from tfpipe.process.gc_pause import pause_while_importing_tensorflow
from tfpipe.process.lean_keras import leave_out_optional_imports

if TYPE_CHECKING:
    import tensorflow as tf

_ADDRESS = re.compile(r"grpc://([^/:]+):(\d{1,5})")
_POLL_S = 5.0
# Holds a batch, or None and the error that came instead.
_Queue = queue.Queue[tuple[Any, BaseException | None]]


def addresses(text: str) -> tuple[str, ...]:
    """Returns the addresses in a comma-separated list; an empty text has none.

    Raises:
        UsageError: an address is not of the form grpc://HOST:PORT, or is listed twice.
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
    """Runs `batches.map(finish)` in other processes.

    Args:
        batches: a pipeline; every process runs all of it.
        finish: the function that is applied to each element; the processes share this work.
        service: the addresses of the processes.
        total: the number of elements.

    Returns:
        A dataset with the same elements in the same order as `batches.map(finish)`.

    Raises:
        TfpipeError: a process does not answer.
    """
    import tensorflow as tf

    require_alive(service)

    def finished_by(index: int) -> tf.data.Dataset:
        mine = batches.enumerate().shard(len(service), index)
        done = mine.map(
            lambda number, batch: (number, finish(batch)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        # Without compression: the processes are near, so compressing takes longer than it saves in sending.
        return done.apply(tf.data.experimental.service.distribute("parallel_epochs", service[index], compression=None))

    def checked(wanted: tf.Tensor, element: tuple[tf.Tensor, Any]) -> Any:
        number, batch = element
        message = "a process of the data service was restarted, or has more than one worker"
        with tf.control_dependencies([tf.debugging.assert_equal(number, wanted, message)]):
            return tf.nest.map_structure(tf.identity, batch)

    turns = tf.data.Dataset.range(total).map(lambda number: number % len(service))
    merged = tf.data.Dataset.choose_from_datasets([finished_by(index) for index in range(len(service))], turns)
    return tf.data.Dataset.zip((tf.data.Dataset.range(total), merged)).map(checked)


def watched(batches: Iterable[Any], service: tuple[str, ...]) -> Iterator[Any]:
    """Yields the batches, and raises an error if a process of the service that it waits for is gone.

    Without this, TensorFlow would try to reach the process for ever.

    Raises:
        TfpipeError: a process of the service no longer answers.
    """
    if not service:
        yield from batches
        return
    given: _Queue = queue.Queue(1)
    stopped = threading.Event()
    threading.Thread(target=_read, args=(batches, given, stopped), daemon=True).start()
    try:
        while True:
            try:
                batch, error = given.get(timeout=_POLL_S)
            except queue.Empty:
                _require_still_alive(service)
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch
    finally:
        stopped.set()


def _read(batches: Iterable[Any], given: _Queue, stopped: threading.Event) -> None:
    """Puts batches, and at last the error or StopIteration, into a queue until `stopped` is set."""

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


def _require_still_alive(service: tuple[str, ...]) -> None:
    try:
        require_alive(service)
    except TfpipeError:
        exit_status.skip_cleanup()  # because the thread that reads from the service cannot be stopped
        raise


def require_alive(service: tuple[str, ...]) -> None:
    """Checks that a server listens at each address.

    Raises:
        TfpipeError: there is none at one of them.
    """
    for address in service:
        host, _, port = address.removeprefix("grpc://").partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_POLL_S).close()
        except (OSError, OverflowError) as error:
            raise TfpipeError(
                f"{address}: no data service answers ({error}); start it with `tfpipe data-service start` and run "
                "the same command again"
            ) from error


def serve(*, port: int, host: str = "localhost") -> None:
    """Runs one process of the service, a dispatcher and its worker until it is killed.

    Prints its address, such as `grpc://localhost:5050`, as a line on stdout once it answers.

    Args:
        port: port on which the dispatcher listens.
        host: name of this machine, as the training process knows it.
    """
    import tensorflow as tf

    from tfpipe.data.file_systems import use_tensorflow_io

    use_tensorflow_io()
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=port))
    worker = service.WorkerServer(
        service.WorkerConfig(dispatcher_address=f"localhost:{port}", worker_address=f"{host}:%port%")
    )
    print(f"grpc://{host}:{port}", flush=True)
    while dispatcher and worker:  # refers to both, because a server stops when it is garbage collected
        time.sleep(3600)


def main(arguments: list[str]) -> int:
    """Runs one process of the data service until it is killed."""
    parser = argparse.ArgumentParser(prog="python -m tfpipe.data.data_service", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True, help="port on which the dispatcher listens")
    parser.add_argument("--host", default="localhost", help="name of this machine for the training process (localhost)")
    args = parser.parse_args(arguments)
    serve(port=args.port, host=args.host)
    return 0


if __name__ == "__main__":
    leave_out_optional_imports()
    pause_while_importing_tensorflow()
    sys.exit(main(sys.argv[1:]))
