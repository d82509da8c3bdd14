"""The REST API: bodies and texts are TensorFlow Serving's."""

import contextlib
import gzip
import http.client
import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from serving.server.metrics import Entrance, Monitor
from serving.server.rest import rest_server
from serving.server.rest.rest_requests import cors_headers
from serving.server.service import Api

PREDICT = "/v1/models/vae:predict"


@pytest.fixture
def connection(server):
    opened = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    yield opened
    opened.close()


def ask(connection, verb, path, body=None):
    data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
    connection.request(verb, path, data)
    response = connection.getresponse()
    text = response.read()
    return response.status, json.loads(text) if response.getheader("Content-Type") == "application/json" else text


def test_row_format_with_one_output_is_bare_values(connection, client):
    z = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    for instances in (z.tolist(), [{"z": row} for row in z.tolist()]):
        status, body = ask(connection, "POST", PREDICT, {"signature_name": "decode", "instances": instances})
        assert status == 200
        np.testing.assert_allclose(body["predictions"], client.decode(z), atol=1e-6)


def test_row_format_with_several_outputs_is_objects(connection):
    body = {"signature_name": "generate", "instances": [{"seed": 1, "temperature": 1}, {"seed": 2, "temperature": 0.5}]}
    _, answer = ask(connection, "POST", "/v1/models/vae/versions/1:predict", body)
    assert [set(row) for row in answer["predictions"]] == [{"z", "mel"}] * 2
    assert np.shape(answer["predictions"][1]["mel"]) == (128, 216)


def test_column_format(connection, client):
    body = {"signature_name": "generate", "inputs": {"seed": [1, 2], "temperature": [1.0, 1.0]}}
    _, answer = ask(connection, "POST", PREDICT, body)
    np.testing.assert_allclose(answer["outputs"]["z"], client.generate([1, 2]).z, atol=1e-6)
    _, answer = ask(connection, "POST", PREDICT, {"signature_name": "spec", "inputs": [0]})
    assert json.loads(answer["outputs"][0])["latent"] == 8


def test_default_signature_and_nan_literals(connection, spec):
    mel = np.zeros((1, *spec.mel_shape)).tolist()
    assert np.shape(ask(connection, "POST", PREDICT, {"instances": mel})[1]["predictions"]) == (1, 128, 216)
    text = '{"signature_name": "decode", "instances": [[NaN, 0, 0, 0, 0, 0, 0, 0]]}'
    status, answer = ask(connection, "POST", PREDICT, text)
    assert status == 200
    assert math.isnan(answer["predictions"][0][0][0])


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "says"),
    [
        ("POST", "/v1/models/x:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(x)"),
        (
            "POST",
            "/v1/models/vae/versions/7:predict",
            {"instances": [1]},
            404,
            "Servable not found for request: Specific(vae, 7)",
        ),
        (
            "POST",
            "/v1/models/vae/labels/stable:predict",
            {"instances": [1]},
            400,
            "Unrecognized servable version label: stable",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "X", "instances": [1]},
            400,
            'Serving signature name: "X" not found in signature def',
        ),
        ("POST", PREDICT, {"signature_name": ["X"], "instances": [1]}, 400, "'signature_name' key must be a string"),
        ("POST", PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
        (
            "POST",
            PREDICT,
            {"inputs": [], "instances": []},
            400,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        ),
        ("POST", PREDICT, {"instances": []}, 400, "No values in 'instances' array"),
        ("POST", PREDICT, {"instances": 5}, 400, "to be a list/array"),
        ("POST", PREDICT, [1], 400, "Is not object"),
        ("POST", PREDICT, "{", 400, "JSON Parse error"),
        ("POST", PREDICT, "instances = [1, 2]", 400, "JSON Parse error: Invalid value"),
        ("POST", PREDICT, b"\xff\xfe\x00", 400, "JSON Parse error"),
        ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
        ("POST", PREDICT, "[" * 100_000, 400, "nested too deeply"),
        (
            "POST",
            PREDICT,
            {"signature_name": "decode", "instances": [[1], [1, 2]]},
            400,
            "Expecting tensor size: 1 but got: 2",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "decode", "instances": [["a"] * 8]},
            400,
            "Type: String is not of expected type: float",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "decode", "instances": [[True] * 8]},
            400,
            "Type: True is not of expected type: float",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "decode", "instances": [[None] * 8]},
            400,
            "Type: Null is not of expected type: float",
        ),
        ("POST", PREDICT, {"signature_name": "decode", "instances": [[1, 2]]}, 400, "tensor with 2 values"),
        (
            "POST",
            PREDICT,
            {"signature_name": "decode", "inputs": {"y": [[1]]}},
            400,
            "Missing named input: z in 'inputs' object.",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "spec", "inputs": [2**40]},
            400,
            "Type: Number is not of expected type: int32",
        ),
        ("POST", PREDICT, {"signature_name": "spec", "inputs": [1.5]}, 400, "of expected type: int32"),
        ("POST", PREDICT, {"signature_name": "spec", "inputs": [10**400]}, 400, "of expected type: int32"),
        (
            "POST",
            PREDICT,
            {"signature_name": "generate", "inputs": [1]},
            400,
            "inputs is a plain value/list, but expecting an object",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "generate", "instances": [{"seed": 1}]},
            400,
            "keys must be equal to: seed,temperature",
        ),
        ("POST", "/v1/models/vae:classify", {"examples": [{}]}, 400, "signature method_name to be"),
        ("POST", "/v1/models/vae:regress", {"examples": [{}]}, 400, "signature method_name to be"),
        ("POST", "/v1/models/vae:explain", {}, 400, "Malformed request: POST /v1/models/vae:explain"),
        ("GET", PREDICT, None, 400, f"Malformed request: GET {PREDICT}"),
        ("DELETE", "/v1/models/vae", None, 400, "Malformed request: DELETE /v1/models/vae"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", f"/v1/models/vae/versions/{2**64}", None, 400, "Failed to convert version"),
        ("GET", "/v1/models/x", None, 404, "Could not find any versions of model x"),
        ("GET", "/v1/models/vae/versions/9", None, 404, "Could not find version 9 of model vae"),
        ("GET", "/v1/models/x/metadata", None, 404, "Servable not found for request: Latest(x)"),
    ],
)
def test_refusals(connection, verb, path, body, status, says):
    actual, answer = ask(connection, verb, path, body)
    assert actual == status
    assert set(answer) == {"error"}
    assert says in answer["error"]
    assert "Traceback" not in answer["error"]


def test_status_body(connection):
    expected = {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for path in ("/v1/models/vae", "/v1/models/vae/versions/1", "/v1/models/vae/labels/any"):
        assert ask(connection, "GET", path) == (200, expected)


def test_metadata_body(connection):
    _, body = ask(connection, "GET", "/v1/models/vae/metadata")
    assert body["model_spec"] == {"name": "vae", "signature_name": "", "version": "1"}
    decode = body["metadata"]["signature_def"]["signature_def"]["decode"]
    assert decode["inputs"]["z"]["dtype"] == "DT_FLOAT"
    assert decode["inputs"]["z"]["tensor_shape"]["unknown_rank"] is False
    assert decode["defaults"] == {}
    assert [dim["size"] for dim in decode["inputs"]["z"]["tensor_shape"]["dim"]] == ["-1", "8"]


def test_bodies_and_answers_may_be_compressed(connection, client):
    z = np.zeros((2, 8), np.float32)
    body = gzip.compress(json.dumps({"signature_name": "decode", "instances": z.tolist()}).encode())
    connection.request("POST", PREDICT, body, {"Content-Encoding": "gzip", "Accept-Encoding": "deflate, gzip;q=0.5"})
    response = connection.getresponse()
    packed = response.read()
    assert (response.status, response.getheader("Content-Encoding")) == (200, "gzip")
    np.testing.assert_allclose(json.loads(gzip.decompress(packed))["predictions"], client.decode(z), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "encoding", "status", "says"),
    [
        (gzip.compress(bytes(200 << 20), 1), "gzip", 400, "larger than"),
        (b"no gzip", "gzip", 400, "cannot be unpacked"),
        (b"{}", "br", 400, "is not supported"),
        (b'{"instances": [' + b"[],[]," * 4_000_000 + b"[]]}", "identity", 400, "of memory"),
    ],
)
def test_bodies_that_unpack_or_become_too_much_are_refused(connection, body, encoding, status, says):
    connection.request("POST", PREDICT, body, {"Content-Encoding": encoding})
    response = connection.getresponse()
    assert response.status == status
    assert says in json.loads(response.read())["error"]


def test_every_refusal_of_the_http_library_is_json(server):
    for request, status in (
        (f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n", 413),
        (f"GET / HTTP/1.1\r\nHost: x\r\nX: {'x' * 300_000}\r\n\r\n", 431),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ):
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as raw:
            with contextlib.suppress(ConnectionError):
                raw.sendall(request.encode())
            response = http.client.HTTPResponse(raw)
            response.begin()
            assert (response.status, response.getheader("Content-Type")) == (status, "application/json")
            assert set(json.loads(response.read())) == {"error"}


def test_web_pages_of_other_sites_are_let_in_only_if_that_is_asked_for(server, connection):
    connection.request("OPTIONS", PREDICT)
    response = connection.getresponse()
    assert (response.status, response.getheader("Access-Control-Allow-Origin")) == (400, None)
    response.read()
    entrance = Entrance("REST", Monitor(server.catalog.knows), open_requests=1)
    api, cors = Api(server.catalog, server.config.limits), cors_headers(True, None)
    application = rest_server.Application(api, entrance, timeout_s=60, metrics_path=None, cors=cors)
    for verb, path, status in (("OPTIONS", PREDICT, "200 OK"), ("GET", "/v1/models/x", "404 Not Found")):
        found: list[Any] = []
        application({"REQUEST_METHOD": verb, "PATH_INFO": path}, lambda *answer, found=found: found.extend(answer))
        assert found[0] == status
        assert {
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Methods": "POST, GET",
            "Access-Control-Allow-Headers": "Content-Type",
        }.items() <= dict(found[1]).items()


def test_oversize_and_hostile_connections_leave_the_server_standing(server, connection):
    size = server.config.limits.json_bytes + 1
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as raw:
        raw.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        assert b" 413 " in raw.recv(4096)
    rng = np.random.default_rng(0)
    for data in (b"GET", b"\x16\x03\x01" + rng.bytes(100), b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as raw:
            raw.sendall(data)
    # Silent connections occupy no thread, so there may be more of them than threads.
    silent = [socket.create_connection(("127.0.0.1", server.rest_port)) for _ in range(120)]
    try:
        assert ask(connection, "GET", "/v1/models/vae")[0] == 200
    finally:
        for raw in silent:
            raw.close()


def test_concurrent_requests_get_their_own_answers(server, client):
    seeds = list(range(20))
    expected = client.generate(seeds).z

    def one(seed):
        opened = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        body = {"signature_name": "generate", "inputs": {"seed": [seed], "temperature": [1.0]}}
        status, answer = ask(opened, "POST", PREDICT, body)
        opened.close()
        assert status == 200, answer
        return np.abs(np.array(answer["outputs"]["z"][0]) - expected[seed]).max()

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(one, seeds)) < 1e-6


def test_stop_works_when_the_loop_is_woken_meanwhile(server, monkeypatch):
    """A thread that has just answered may wake the loop while it stops."""
    api, monitor = Api(server.catalog, server.config.limits), Monitor(server.catalog.knows)
    opened = rest_server.RestServer(api, monitor=monitor, host="127.0.0.1", port=0, threads=2)
    opened.start()
    trigger = opened._server.trigger
    wake = trigger._physical_pull

    def wake_twice():
        wake()
        time.sleep(0.1)  # time for the loop to wake
        wake()

    monkeypatch.setattr(trigger, "_physical_pull", wake_twice)
    opened.stop(grace_s=5)
    assert not opened._thread.is_alive()
