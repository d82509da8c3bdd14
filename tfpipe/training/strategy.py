"""The tf.distribute strategy: which devices train together, and how their processes exchange values.

Needs TensorFlow.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfpipe.errors import TfpipeError, UsageError
from tfpipe.process import exit_status
from tfpipe.training.cluster import Cluster, from_environment, from_tf_config, silent, telling_who_lacks
from tfpipe.training.config import STRATEGIES

# TensorFlow's errors for a worker that died or hangs, and for a step that failed because of it.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the tf.distribute strategy for `name`. With several workers it waits until all have connected.

    `auto` means multiworker if TF_CONFIG names a cluster, mirrored if this machine has several GPUs, else
    single. `multiworker` also reads the cluster from the variables of Slurm or Kubernetes, see
    `tfpipe.training.cluster`.

    Raises:
        UsageError: unknown name, or multiworker without a usable cluster.
        TfpipeError: this worker cannot listen at its address.
    """
    if name not in STRATEGIES:
        raise UsageError(f"strategy {name!r} is unknown; use one of {', '.join(STRATEGIES)}")
    cluster = {"auto": from_tf_config, "multiworker": from_environment}.get(name, lambda _: None)(os.environ)
    if cluster is not None:
        return _join(cluster)
    if name == "multiworker":
        raise UsageError(
            "strategy multiworker finds no cluster: start the workers as tasks of a Slurm job or as a Kubernetes "
            "Indexed Job, or set TF_CONFIG for each of them"
        )
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy([device.name for device in gpus or tf.config.list_logical_devices("CPU")])
    return tf.distribute.get_strategy()


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns this process's (index, count) among the workers."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        resolver = strategy.cluster_resolver
        return resolver.task_id or 0, len(resolver.cluster_spec().job_tasks("worker"))
    return 0, 1


def from_chief(
    strategy: tf.distribute.Strategy, value: Any, arrays: Sequence[NDArray[Any]] = ()
) -> tuple[Any, list[NDArray[Any]]]:
    """Returns the chief's value and arrays on every worker. All workers must call it.

    Args:
        strategy: connects the workers.
        value: plain JSON.
        arrays: numbers; shapes and types must be the same on all workers.
    """
    index, count = worker(strategy)
    if count == 1:
        return value, list(arrays)
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size, *shared = _from_first(strategy, [np.array(len(data)), *arrays])
    (sent,) = _from_first(strategy, [data if index == 0 else np.zeros(size, np.uint8)])
    return json.loads(sent.tobytes()), shared


def require_equal(strategy: tf.distribute.Strategy, settings: Mapping[str, Any]) -> None:
    """Checks that this worker has the settings of the chief, because they could not train together otherwise.

    Args:
        strategy: connects the workers.
        settings: plain JSON values by name.

    Raises:
        TfpipeError: the chief has other settings.
    """
    chief, _ = from_chief(strategy, settings)
    names = [name for name in settings if settings[name] != chief[name]]
    if names:
        differing = "; ".join(f"{name}: {chief[name]} there, {settings[name]} here" for name in names)
        raise TfpipeError(f"worker 0 has other settings ({differing}); start all workers with the same ones")


@contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Translates the errors that the loss of another worker causes in the block into one line.

    Raises:
        TfpipeError: another worker died, hangs or cannot be reached.
    """
    index, count = worker(strategy)
    if count == 1:
        yield
        return
    try:
        yield
    except _LOST as error:
        exit_status.skip_cleanup()  # at exit, TensorFlow would wait for the lost worker
        addresses = tuple(strategy.cluster_resolver.cluster_spec().job_tasks("worker"))
        lost = silent(Cluster(workers=addresses, index=index))
        if not lost:  # the lost worker hangs, or was started again
            named = {int(task) for task in re.findall(r"/task:(\d+)", error.message)} - {index}
            lost = [f"{task} ({addresses[task]})" for task in sorted(named) if task < count]
        who = f"worker {' and '.join(lost)}" if lost else "another worker"
        raise TfpipeError(
            f"worker {index}: training stopped, since {who} is lost; "
            "its own output says why; run the same command on all workers to continue from the last checkpoint"
        ) from error


def _from_first(strategy: tf.distribute.Strategy, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Returns the first replica's arrays."""
    # All have one type, so that one exchange sends them; float64 holds float32, and integers up to 2**53, exactly.
    tensors = [tf.constant(array, tf.float64) for array in arrays]

    def send() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(tf.cast(context.replica_id_in_sync_group, tf.int32), 0)
        own = [tf.where(is_first, tensor, tf.zeros_like(tensor)) for tensor in tensors]
        total: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, own)
        return total

    sums = tf.function(lambda: strategy.run(send), autograph=False)()
    received = [np.asarray(strategy.experimental_local_results(value)[0]) for value in sums]
    return [value.astype(array.dtype) for value, array in zip(received, arrays, strict=True)]


def _join(cluster: Cluster) -> tf.distribute.Strategy:
    """Connects to the other workers, and waits for those that have not started yet."""
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    try:
        with telling_who_lacks(cluster), _default_sigint():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except tf.errors.OpError as error:
        exit_status.skip_cleanup()
        raise TfpipeError(
            f"worker {cluster.index}: cannot join the others from {cluster.workers[cluster.index]}: "
            f"{error.message.splitlines()[0]}; is the port free, and is this worker started once?"
        ) from error
    # All workers have the same number of batches, so they need not ask each other before each batch.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


@contextmanager
def _default_sigint() -> Iterator[None]:
    """Lets Ctrl-C end the process while TensorFlow waits in C++, where a Python handler does not run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
