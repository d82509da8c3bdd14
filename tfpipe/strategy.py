"""Which devices train together (needs TensorFlow)."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from tfpipe.errors import UsageError
from tfpipe.runs import STRATEGIES


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the tf.distribute strategy for `name`.

    `auto`: multiworker when TF_CONFIG names a cluster, mirrored when this
    machine has several GPUs, else single.

    Raises:
        UsageError: unknown name, or multiworker without a usable TF_CONFIG.
    """
    if name not in STRATEGIES:
        raise UsageError(f"strategy {name!r} is unknown; use one of {', '.join(STRATEGIES)}")
    cluster = _cluster()
    if name == "auto":
        several_gpus = len(tf.config.list_physical_devices("GPU")) > 1
        name = "multiworker" if cluster else "mirrored" if several_gpus else "single"
    if name == "multiworker":
        if not cluster:
            raise UsageError(
                "strategy multiworker needs TF_CONFIG, such as "
                '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if name == "mirrored" else tf.distribute.get_strategy()


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns this process's (index, count) among the workers."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        resolver = strategy.cluster_resolver
        return resolver.task_id or 0, len(resolver.cluster_spec().job_tasks("worker"))
    return 0, 1


def _cluster() -> list[str]:
    """Returns the workers that TF_CONFIG names, none when it is not set.

    Raises:
        UsageError: TF_CONFIG is set and is not what TensorFlow documents.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return []
    try:
        return list(json.loads(text)["cluster"]["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"TF_CONFIG cannot be read ({error!r}); it must be JSON with cluster.worker and task"
        ) from error
