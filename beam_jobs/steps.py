"""What every step of the pipeline needs: a failure keeps its message through any runner, and work is counted."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

from apache_beam.metrics import Metrics
from apache_beam.typehints.decorators import no_annotations

from beam_jobs.metrics import Meter
from beam_jobs.payload import Job
from tfpipe.errors import TfpipeError, os_error_message
from tfpipe.files import remote

# Metrics of the job, apart from those of Beam itself.
NAMESPACE = "tfpipe"
# Beam passes on a worker's exception as text; ours has the message for the user in it, as hex.
_FAILURE = re.compile(r"tfpipe-failure:([0-9a-f]*);")
_Result = TypeVar("_Result")


@no_annotations  # Beam does not understand the annotations of keyword arguments
def guarded(element: Any, function: Callable[..., _Result], job: Job, **inputs: Any) -> _Result:
    """Calls a step; if it fails, raises an exception whose text keeps the message through any runner."""
    try:
        _use_options(job.pipeline_args)
        return function(element, job, **inputs)
    except TfpipeError as error:
        cause = str(error)
    except OSError as error:
        cause = os_error_message(error, job.config.output)
    except MemoryError:
        cause = "a worker ran out of memory; use fewer --workers or a machine with more memory"
    raise RuntimeError(f"tfpipe-failure:{cause.encode('utf-8', 'surrogateescape').hex()};")


def failure_in(error: BaseException) -> str | None:
    """Returns the message of the step that failed, or None if the error does not come from `guarded`."""
    found = _FAILURE.search(str(error))
    return None if found is None else bytes.fromhex(found[1]).decode("utf-8", "surrogateescape")


def meter(job: Job) -> Meter:
    """Returns a meter that counts for the command's progress bar and for Beam's metrics."""
    return Meter(job.counts, lambda name, number: Metrics.counter(NAMESPACE, name).inc(number))


@functools.cache
def _use_options(arguments: tuple[str, ...]) -> None:
    """Applies Beam's options for reaching URLs, which the local runner does not pass to its worker processes."""
    if arguments:
        remote.use_options(arguments)
