"""More requests than the server takes: the rest is refused at once, and a wait ends with its client."""

import contextlib
import http.client
import json
from collections import Counter

import numpy as np
from serving_tools import eventually, ran, serving, steps

from serving.server.config import Limits
from serving.server.config_files import Batching

SMALL = Batching(max_batch_size=2, max_enqueued_batches=1, num_batch_threads=1)

# Steps of `slow` that take about 2 s on a fast CPU, so that the others still wait when a test looks.
LONG = 160_000


@contextlib.contextmanager
def full_queue(toy, front_end):
    """Yields a server whose queue for `slow` is full: some requests compute and two wait."""
    settings = {"batching": SMALL, "rest_api_timeout_in_ms": 120_000, "grpc_front_end": front_end}
    with serving(toy, **settings) as (server, caller):
        caller.predict("slow", x=steps(1))
        if front_end == "native":  # it batches such requests once the thread that answered this one has ended
            eventually(lambda: not server._grpc._calls)
        with server.catalog.use("vae") as model:
            queue = model.signatures["slow"]._batch_queue
        if front_end == "native":
            inside = [caller.future("slow", x=steps(LONG))]
            eventually(lambda: held(server) == 1)
        else:
            inside = [caller.future("slow", x=steps(LONG))]
            eventually(lambda: queue._free == 3)
            inside += [caller.future("slow", x=steps(1)) for _ in range(3)]  # they wait for the long one
            eventually(lambda: queue._free == 0)
        waiting = [caller.future("slow", x=steps(1)) for _ in range(2)]

        def are_waiting(count):
            return held(server) == 1 + count if front_end == "native" else len(queue._queue) == count

        eventually(lambda: are_waiting(2))
        yield server, caller, inside, waiting, are_waiting


def held(server):
    return server._grpc.native.held()[0]


def test_a_full_queue_is_unavailable_at_once_and_recovers(toy, front_end):
    with full_queue(toy, front_end) as (_, caller, inside, waiting, _):
        code, message = caller.refusal("slow", x=steps(1))
        assert (code, "queue" in message) == ("UNAVAILABLE", True)
        assert not any(one.done() for one in inside + waiting), "the refusal came no sooner than the answers"
        # Other signatures do not wait for it.
        np.testing.assert_array_equal(caller.predict("double", x=steps(1))["y"], 2 * steps(1))
        assert all(one.result() for one in inside + waiting)
        np.testing.assert_array_equal(caller.predict("slow", x=steps(1))["y"], steps(1))


def test_a_full_queue_is_503_over_rest(toy):
    with full_queue(toy, "python") as (server, _, inside, waiting, _):
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        connection.request(
            "POST", "/v1/models/vae:predict", json.dumps({"signature_name": "slow", "inputs": [[1] * 3]})
        )
        response = connection.getresponse()
        assert (response.status, "queue" in json.loads(response.read())["error"]) == (503, True)
        connection.close()
        assert not any(one.done() for one in inside + waiting), "the refusal came no sooner than the answers"


def test_deadlines_are_honoured_and_abandoned_work_is_not_run(toy, front_end):
    with full_queue(toy, front_end) as (_, caller, inside, waiting, are_waiting):
        waiting[0].cancel()
        eventually(lambda: are_waiting(1))
        code, _ = caller.refusal("slow", x=steps(1), timeout=0.3)
        assert code == "DEADLINE_EXCEEDED"
        assert not any(one.done() for one in inside)
        assert all(one.result() for one in inside)
        assert waiting[1].result()
        assert ran(caller)[0] == 1 + len(inside) + 1


def test_more_requests_than_there_are_threads_are_refused(toy, front_end):
    limits = Limits(concurrent_runs=1, open_requests=4)
    with serving(toy, limits=limits, batching=None, grpc_front_end=front_end) as (_, caller):
        answers = [caller.future("slow", x=steps(5000)) for _ in range(60)]
        codes = Counter(one.code().name for one in answers)
        assert set(codes) == {"OK", "UNAVAILABLE"}
        assert codes["OK"] >= 4
        assert caller.predict("slow", x=steps(1))["y"].shape == (1, 3)
