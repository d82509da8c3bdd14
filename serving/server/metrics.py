"""Metrics and logs of the server: a Prometheus page with TensorFlow Serving's names, and log lines."""

from __future__ import annotations

import bisect
import contextlib
import json
import logging
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from serving.protocol.status import FAILED, Code, StatusError
from serving.protocol.token import NO_TOKEN
from serving.server.admission import AdmissionQueue, Call

_LOG = logging.getLogger(__name__)
# Upper bounds of the histograms' buckets in µs, as in TensorFlow Serving (servables/tensorflow/util.cc).
_BOUNDS = tuple(10 * 1.8**number for number in range(33))
# Failed requests that are logged in a second; the rest is only counted.
_LINES_PER_S = 5
# When the page knows this many model names, those no longer served are dropped. A configuration lists at most half
# as many.
_MAX_NAMES = 2000


class Monitor:
    """Counts and times requests, and logs those that failed.

    Args:
        knows: tells whether a model is served. Requests for other models are counted under an empty name, so
            that clients cannot make the page grow.
    """

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self._knows = knows
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = defaultdict(int)
        self._latencies: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)
        self._runtimes: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)
        self._names: set[str] = set()
        self._errors = _RateLimitedLog(_LINES_PER_S)

    @contextlib.contextmanager
    def watch(self, method: str, *, entrypoint: str, model: str, call: Call) -> Iterator[None]:
        """Counts and times the request that its block answers, and logs it if it fails.

        Args:
            method: of the API, such as `Predict`.
            entrypoint: `GRPC` or `REST`.
            model: the name that the request asks for.
            call: the request in progress; it knows the model's time.

        Raises:
            StatusError: the request's own, or INTERNAL without a stack trace if the server has a bug.
        """
        started, code = time.monotonic(), Code.OK
        try:
            yield
        except StatusError as error:
            code = error.code
            self._errors.log(f"{entrypoint} {method} {json.dumps(model[:100])}: {code.name}: {error.message[:500]!r}")
            raise
        except Exception as error:  # a bug must neither end the server nor show its stack trace
            code = Code.INTERNAL
            _LOG.exception("%s %s failed", entrypoint, method)
            raise StatusError(code, FAILED) from error
        finally:
            self.add(
                method,
                entrypoint=entrypoint,
                model=model,
                code=code,
                took_s=[call.waited_s + time.monotonic() - started],
                runtime_s=call.runtime_s,
            )

    def add(
        self, method: str, *, entrypoint: str, model: str, code: Code, took_s: Sequence[float], runtime_s: float
    ) -> None:
        """Counts and times requests for one model that ended with the same code.

        Args:
            method: of the API.
            entrypoint: `GRPC` or `REST`.
            model: the name that the requests ask for.
            code: the status of the answers.
            took_s: duration of each request, in s.
            runtime_s: the model's time for each request, in s.
        """
        name = model if self._knows(model) else ""
        with self._lock:
            self._remember(name)
            self._counts[name, code.name] += len(took_s)
            for took in took_s:
                self._latencies[name, method, entrypoint].add(1e6 * took)
                if runtime_s:
                    self._runtimes[name, method, "TF1"].add(1e6 * runtime_s)

    def add_refused(self, *, entrypoint: str, model: str, code: Code, why: str, count: int) -> None:
        """Counts and logs requests that were refused without running the model, or whose answer was dropped.

        Args:
            entrypoint: `GRPC` or `REST`.
            model: the name that the requests ask for.
            code: the status of the answers.
            why: the reason in words.
            count: number of requests.
        """
        name = model if self._knows(model) else ""
        with self._lock:
            self._remember(name)
            self._counts[name, code.name] += count
        self._errors.log(f"{entrypoint} {json.dumps(model[:100])}: {code.name}: {why!r} ({count} requests)")

    def _remember(self, name: str) -> None:
        """Adds a name. Names no longer served are dropped at a limit, so that reloads cannot make the page grow."""
        if name not in self._names and len(self._names) >= _MAX_NAMES:
            self._names = {known for known in self._names if not known or self._knows(known)}
            tables: tuple[dict[Any, Any], ...] = (self._counts, self._latencies, self._runtimes)
            for figures in tables:
                for key in [key for key in figures if key[0] not in self._names]:
                    del figures[key]
        self._names.add(name)

    def page(self) -> str:
        """Returns the metrics in Prometheus' text format."""
        with self._lock:
            lines = ["# TYPE :tensorflow:serving:request_count counter"]
            for (name, status), count in sorted(self._counts.items()):
                lines.append(f":tensorflow:serving:request_count{_labels(model_name=name, status=status)} {count}")
            lines.append("# TYPE :tensorflow:serving:request_latency histogram")
            for (name, method, entrypoint), histogram in sorted(self._latencies.items()):
                labels = {"model_name": name, "API": method, "entrypoint": entrypoint}
                lines += histogram.lines(":tensorflow:serving:request_latency", labels)
            lines.append("# TYPE :tensorflow:serving:runtime_latency histogram")
            for (name, method, runtime), histogram in sorted(self._runtimes.items()):
                labels = {"model_name": name, "API": method, "runtime": runtime}
                lines += histogram.lines(":tensorflow:serving:runtime_latency", labels)
        return "\n".join(lines) + "\n"


class Entrance:
    """One way into the server: admits the requests that compute, and counts, times and logs them.

    Args:
        name: `GRPC` or `REST`.
        monitor: counts, times and logs.
        open_requests: requests that compute or wait at the same time; more are refused.
        computing: requests that compute at the same time, the other open ones wait; 0 lets all of them compute.
    """

    def __init__(self, name: str, monitor: Monitor, *, open_requests: int, computing: int = 0) -> None:
        self.name, self.monitor = name, monitor
        computing = min(computing or open_requests, open_requests)
        self._slots = AdmissionQueue(capacity=computing, max_waiting=open_requests - computing)

    @contextlib.contextmanager
    def computes(self, method: str, *, model: str, call: Call) -> Iterator[None]:
        """Waits for a slot and holds it for the block, in which the request computes; see also `Monitor.watch`.

        Raises:
            StatusError: as `Monitor.watch`; or there is no room (see `AdmissionQueue.slot`).
        """
        with self.watches(method, model=model, call=call), self._slots.slot(call):
            yield

    def watches(self, method: str, *, model: str, call: Call) -> contextlib.AbstractContextManager[None]:
        """Counts, times and logs what happens in the block, without a slot; see `Monitor.watch`."""
        return self.monitor.watch(method, entrypoint=self.name, model=model, call=call)

    def refuse_stranger(self) -> None:
        """Counts and logs a request without the server's token."""
        self.monitor.add_refused(entrypoint=self.name, model="", code=Code.UNAUTHENTICATED, why=NO_TOKEN, count=1)


def configure_logging(form: str) -> None:
    """Sends log lines to stderr.

    Args:
        form: `text`, or `json` for one JSON object in each line, with the keys time (s), level, logger and message,
            and `stack` if there is a stack trace.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if form == "json" else _TextLines("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _TextLines(logging.Formatter):
    """One line for each message: a name from a client or a file cannot add lines that look like the server's own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is of the standard library
        line = super().formatMessage(record)
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _RateLimitedLog:
    """Logs a bounded number of lines in a second, and then how many it left out."""

    def __init__(self, per_s: int) -> None:
        self._per_s, self._second, self._said, self._left_out = per_s, 0, 0, 0
        self._lock = threading.Lock()

    def log(self, message: str) -> None:
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                left_out, self._second, self._said, self._left_out = self._left_out, second, 0, 0
                if left_out:
                    _LOG.warning("%d more failed requests", left_out)
            if self._said == self._per_s:
                self._left_out += 1
                return
            self._said += 1
        _LOG.warning("%s", message)


class _Histogram:
    def __init__(self) -> None:
        self._buckets, self._sum = [0] * (len(_BOUNDS) + 1), 0.0

    def add(self, value: float) -> None:
        self._buckets[bisect.bisect_left(_BOUNDS, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: dict[str, str]) -> list[str]:
        result, total = [], 0
        for bound, count in zip([*(f"{bound:g}" for bound in _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            result.append(f"{name}_bucket{_labels(**labels, le=bound)} {total}")
        return [*result, f"{name}_sum{_labels(**labels)} {self._sum:g}", f"{name}_count{_labels(**labels)} {total}"]


def _labels(**values: str) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in values.items()) + "}"
