"""Where in an epoch the input starts, and which part of each batch a worker reads. Does not load TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the input starts.

    Attributes:
        epoch: decides the order, together with the seed.
        step: number of global batches of this epoch to leave out, because they were consumed before.
    """

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """This worker's part of each global batch.

    Attributes:
        worker: index of this process.
        workers: number of processes.
        replicas: number of devices of this process; each gets one element per step.
        whole: if True, no example is left out: when the replicas cannot share a global batch
            evenly, its last row is repeated.
    """

    worker: int = 0
    workers: int = 1
    replicas: int = 1
    whole: bool = False

    @property
    def total(self) -> int:
        """Number of replicas of all workers together."""
        return self.workers * self.replicas
