"""What one client may do to the others."""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_tools import Caller

CLIENTS, TIME_S = 4, 4.0
# 30 MiB of numbers for a signature that takes 8: they are parsed, and then the model refuses them at once.
ROW = json.dumps([0.123456789012345] * 1_700_000)
BODY = f'{{"signature_name": "decode", "instances": [{ROW}]}}'
# While an interpreter parsed such a body, it answered nobody else: the p95 rose from 8 ms to 1.4 s and more.
# That exceeds both limits. The second one is for machines on which the p95 alone is very small.
MOST, MOST_S = 12.0, 0.2


def p95_s(port):
    """Returns the p95 of the time in which clients that ask without a pause get their answers, in s."""
    z = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    end = time.monotonic() + TIME_S

    def ask(_):
        times = []
        with Caller(port) as caller:
            caller.predict("decode", z=z)
            while (began := time.monotonic()) < end:
                caller.predict("decode", z=z)
                times.append(time.monotonic() - began)
        return times

    with ThreadPoolExecutor(CLIENTS) as pool:
        times = [one for own in pool.map(ask, range(CLIENTS)) for one in own]
    return float(np.percentile(times, 95))


@pytest.mark.slow
def test_a_client_that_posts_large_bodies_of_json_does_not_stop_the_others(server):
    assert len(BODY) > 30 << 20
    alone = p95_s(server.port)
    ended, answers = threading.Event(), []

    def post():
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        while not ended.is_set():
            connection.request("POST", "/v1/models/vae:predict", BODY)
            response = connection.getresponse()
            answers.append((response.status, response.read()[:200]))
        connection.close()

    poster = threading.Thread(target=post)
    poster.start()
    try:
        beside = p95_s(server.port)
    finally:
        ended.set()
        poster.join()
    assert answers
    assert {status for status, _ in answers} == {400}, answers[0]
    said = f"p95 {1000 * alone:.1f} ms alone, {1000 * beside:.1f} ms beside large JSON"
    assert beside < max(MOST * alone, MOST_S), said
