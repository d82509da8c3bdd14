"""What the tests of Flink and of Spark share: the job that every engine runs, ports, and patience."""

import os
import socket
import time

from job_tools import SMALL, config_for


def config(clips, output, **changes):
    """Returns the settings of the job; its shards are small, so that every worker writes some."""
    return config_for(clips, output, spec=SMALL, shard_bytes=2**19, semitones=(0, 7), **changes)


def free_ports(count):
    """Returns the first of `count` consecutive free ports."""
    for first in range(21_000 + os.getpid() % 10_000, 60_000, count):
        try:
            for port in range(first, first + count):
                with socket.create_server(("localhost", port)):
                    pass
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def wait_for(condition, *, seconds=120.0):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
