"""`tfpipe bench serve`: compares the server with one call of the model for each request, and with the model alone.

The servers are processes of their own. This process is the client, and runs the model alone, which is the limit. The
requests come from the compiled `_load` if it is built, for every server alike, because a client in Python would use as
much processor time as the model. To tell what the transport costs on the same processors, a gRPC handler that computes
nothing is measured too, and a bare socket. All is measured in turn in one run.
"""

from __future__ import annotations

import functools
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from serving.protocol import protos, tensors
from serving.protocol.names import MAX_TENSOR_BYTES, MODEL_NAME, PREDICT, UNLIMITED
from tfpipe.bench.audio_signatures import bench_audio_signatures
from tfpipe.bench.compare import Result, compared, rates
from tfpipe.bench.server_process import server_process
from tfpipe.bench.serving_baseline import EMPTY, newest_version, run_signature
from tfpipe.errors import ServingError, UsageError

_CLIENTS = 32
_ROWS = 32
# Latencies are measured in this many pairs of a request and a call of the model.
_PAIRS = 200
# In one timing, a client sends as many requests as the model alone computes in this time, within these bounds.
_TIMING_S, _REQUESTS = 0.5, (4, 64)
_MANY = 64
_SENDINGS = 30


def bench_serve(model_dir: Path, *, rounds: int, pairs: int = _PAIRS) -> list[Result]:
    """Measures an exported model behind the server.

    Args:
        model_dir: folder of the exported versions.
        rounds: how often everything is timed.
        pairs: calls from which latencies are computed.

    Raises:
        UsageError: `rounds` or `pairs` is less than 1, or the folder holds no version.
        ServingError: a server does not start or does not answer.
    """
    if rounds < 1 or pairs < 1:
        raise UsageError(f"rounds={rounds}, pairs={pairs} cannot be measured; use at least 1 of each")
    model = _Model(model_dir)
    command = ["serve", "--model_base_path", str(model_dir), "--rest_api_port", "-1"]
    with server_process(command) as port, _Target(port) as ours:
        # Clients of ours ask for the spec first, so the connection has been used before the first decode.
        ours.answer(_request("spec", index=np.zeros(1, np.int32)))
        first_ms = ours.milliseconds(model.singles[0])
        with (
            server_process([str(model_dir)], module="tfpipe.bench.serving_baseline") as other_port,
            _Target(other_port) as baseline,
            _Target(other_port, method=EMPTY) as empty,
            server_process([*command, "--grpc_front_end", "python"]) as python_port,
            _Target(python_port) as python,
        ):
            model.require_same(ours.answer(_request("decode", z=model.z)))
            targets = {"ours": ours, "python": python, "baseline": baseline}
            results = _throughput(model, targets, empty, rounds=rounds)
            served, alone = _pairs(
                lambda: ours.milliseconds(model.singles[0]), lambda: model.run("decode", z=model.z[:1]), pairs
            )
            large = _large(model, ours, empty, pairs=5 + pairs // 5)
    return [
        *results,
        Result(name="decode in process, one row, p50", value=_percentile(alone, 50), unit="ms"),
        *_added(served, alone),
        *large,
        Result(
            name="first decode after the start",
            value=first_ms,
            unit="ms",
            against="limit",
            ratio=_percentile(served, 50) / first_ms,
        ),
        *bench_audio_signatures(model.loaded, rounds=rounds),
    ]


def _added(served: list[float], alone: list[float]) -> list[Result]:
    """Returns what the server adds to the time of the model, from pairs of latencies in ms."""
    return [
        Result(
            name=f"added by the server, one client, p{percent}",
            value=_percentile(served, percent) - _percentile(alone, percent),
            unit="ms",
        )
        for percent in (50, 99)
    ]


class _Model:
    """The exported model in this process, and the inputs and requests of the bench."""

    def __init__(self, model_dir: Path) -> None:
        self._path = model_dir
        self.loaded = tf.saved_model.load(str(newest_version(model_dir)), tags=["serve"])
        decode = self.loaded.signatures["decode"]
        width, shape = decode.structured_input_signature[1]["z"].shape[1], decode.structured_outputs["mel"].shape[1:]
        self.z = np.random.default_rng(0).standard_normal((_MANY, width)).astype(np.float32)
        self.mel = np.random.default_rng(1).random((_MANY, *shape)).astype(np.float32)
        self.singles = [_request("decode", z=row[np.newaxis]) for row in self.z[:_CLIENTS]]

    def run(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Calls a signature in this process, and copies its outputs to NumPy arrays."""
        return run_signature(self.loaded, signature, inputs)

    def batches_in(self, seconds: float) -> int:
        """Returns how many full batches the model computes in this time, within the bounds `_REQUESTS`."""
        self.run("decode", z=self.z[:_ROWS])
        started = time.perf_counter()
        self.run("decode", z=self.z[:_ROWS])
        least, most = _REQUESTS
        return max(least, min(most, round(seconds / (time.perf_counter() - started))))

    def require_same(self, answer: bytes) -> None:
        """Raises ServingError if a server's answer to `z` is not what the model decodes it to."""
        proto = protos.PredictResponse.FromString(answer).outputs["mel"]
        served = tensors.from_proto(proto, max_bytes=MAX_TENSOR_BYTES)
        difference = np.abs(served - self.run("decode", z=self.z)["mel"]).max()
        if not difference < 1e-3:
            raise ServingError(f"{self._path}: the server's answer differs from the model's by {difference:g}")


def _throughput(model: _Model, targets: dict[str, _Target], empty: _Target, *, rounds: int) -> list[Result]:
    """Measures requests of one row from concurrent clients, and compares them with the model alone."""
    requests = model.batches_in(_TIMING_S)
    nothing = [_empty_request(model.singles[0], answer_bytes=len(targets["ours"].answer(model.singles[0])))] * _CLIENTS
    found = rates(
        {
            "limit": _repeated(lambda: model.run("decode", z=model.z[:_ROWS]), _ROWS, requests),
            **{name: functools.partial(target.load, model.singles, requests) for name, target in targets.items()},
            "empty": lambda: empty.load(nothing, requests),
        },
        rounds=rounds,
        what="serve",
    )
    limit, baseline, concurrent = found["limit"], found["baseline"], f"{_CLIENTS} concurrent decode requests"
    in_python = f"{concurrent}, --grpc_front_end python"
    return [
        compared("decode in process, full batches", limit, against="limit", of=limit),
        compared("one call for each request", baseline, against="baseline", of=baseline),
        compared("answers as large from an empty handler", found["empty"], against="limit", of=limit),
        compared(f"{concurrent}, against the limit", found["ours"], against="limit", of=limit),
        compared(f"{concurrent}, against the baseline", found["ours"], against="baseline", of=baseline),
        compared(f"{in_python}, against the limit", found["python"], against="limit", of=limit),
        compared(f"{in_python}, against the baseline", found["python"], against="baseline", of=baseline),
    ]


def _large(model: _Model, ours: _Target, empty: _Target, *, pairs: int) -> list[Result]:
    """Measures what many spectrograms in one request, or in one answer, cost beyond the model, and in gRPC alone."""
    results = []
    for way, signature, inputs in (("in", "encode", {"mel": model.mel}), ("out", "decode", {"z": model.z})):
        request = _request(signature, **inputs)
        nothing = _empty_request(request, answer_bytes=len(ours.answer(request)))
        # The first requests are not counted: both processes grow their memory then, which costs page faults.
        served, alone = _pairs(
            functools.partial(ours.milliseconds, request),
            functools.partial(model.run, signature, **inputs),
            pairs,
            first=pairs // 2,
        )
        bare = statistics.median(empty.milliseconds(nothing) for _ in range(pairs))
        added = statistics.median(served) - statistics.median(alone)
        results += [
            Result(name=f"added by the server, {_MANY} spectrograms {way}", value=added, unit="ms"),
            Result(name=f"an empty handler, {_MANY} spectrograms {way}", value=bare, unit="ms"),
        ]
    socket_ms = _socket_ms(model.mel.nbytes)
    return [*results, Result(name=f"a bare socket, {_MANY} spectrograms", value=socket_ms, unit="ms")]


class _Target:
    """One method of a server under test. Requests and answers are bytes, so that no time is spent on parsing them."""

    def __init__(self, port: int, *, method: str = PREDICT) -> None:
        self._port, self._method = port, method
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED)
        self._call = self._channel.unary_unary(method)
        grpc.channel_ready_future(self._channel).result(timeout=60)

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def answer(self, request: bytes) -> bytes:
        return bytes(self._call(request, timeout=120))

    def milliseconds(self, request: bytes) -> float:
        started = time.perf_counter()
        self._call(request, timeout=120)
        return 1e3 * (time.perf_counter() - started)

    def load(self, requests: Sequence[bytes], times: int) -> int:
        """Sends the requests side by side, each of them `times` times in a row; returns the number of answers."""
        load = _compiled_load()
        if load is not None:
            length = len(self.answer(requests[0]))
            return int(load(f"127.0.0.1:{self._port}", self._method, requests, times=times, answer_bytes=length))

        def client(request: bytes) -> int:
            for _ in range(times):
                self._call(request, timeout=120)
            return times

        with futures.ThreadPoolExecutor(len(requests)) as pool:
            return sum(pool.map(client, requests))


def _compiled_load() -> Callable[..., int] | None:
    """Returns the compiled load generator, or None if it was not built because Rust is missing."""
    try:
        from tfpipe.bench._load import load
    except ImportError:
        return None
    return load


def _request(signature: str, **inputs: NDArray[Any]) -> bytes:
    request = protos.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL_NAME, signature
    for alias, array in inputs.items():
        tensors.write(request.inputs[alias], array)
    return bytes(request.SerializeToString())


def _empty_request(like: bytes, *, answer_bytes: int) -> bytes:
    """Returns a request to the empty handler that is as long as `like` and asks for an answer of that length."""
    return answer_bytes.to_bytes(8, "little") + bytes(len(like) - 8)


def _socket_ms(size: int) -> float:
    """Returns the median time, in ms, in which this many bytes go through a loopback socket into allocated memory."""
    data, times = bytes(size), []

    def take(listener: socket.socket) -> None:
        memory = memoryview(bytearray(size))
        with listener.accept()[0] as connection:
            for _ in range(_SENDINGS):
                got = 0
                while got < size and (more := connection.recv_into(memory[got:])):
                    got += more
                connection.sendall(b"!")

    with socket.create_server(("127.0.0.1", 0)) as listener, futures.ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take, listener)
        with socket.create_connection(listener.getsockname()) as sender:
            for _ in range(_SENDINGS):
                started = time.perf_counter()
                sender.sendall(data)
                sender.recv(1)
                times.append(1e3 * (time.perf_counter() - started))
        taken.result()
    return statistics.median(times)


def _pairs(
    served: Callable[[], float], local: Callable[[], object], count: int, *, first: int = 3
) -> tuple[list[float], list[float]]:
    """Times a request and the same call in this process in turn; returns both in ms, without the first ones."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(count + first):
        times[0].append(served())
        started = time.perf_counter()
        local()
        times[1].append(1e3 * (time.perf_counter() - started))
    return times[0][first:], times[1][first:]


def _repeated(step: Callable[[], object], rows: int, times: int) -> Callable[[], int]:
    def run() -> int:
        for _ in range(times):
            step()
        return rows * times

    return run


def _percentile(values: Sequence[float], percent: int) -> float:
    return float(np.percentile(values, percent))
