"""Thousands of hostile requests: none crashes the server, reveals its internals, or changes another answer."""

import http.client
import io
import json
import random
import socket
import struct
import threading
import wsgiref.util
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serving_tools import Caller, start_server

from serving.protocol import protos, tensors
from serving.protocol.names import PREDICT
from serving.protocol.status import StatusError
from serving.server.admission import Call
from serving.server.metrics import Entrance, Monitor
from serving.server.rest import rest_server
from serving.server.service import Api

FAST = {"handlers": 1000, "bodies": 700, "grpc": 200, "http": 100, "sockets": 30}
FULL = {"handlers": 60_000, "bodies": 35_000, "grpc": 4000, "http": 4000, "sockets": 600}
SIGNATURES = ["double", "negate", "finite", "ran", "version", "serving_default", "", "nope", "n" * 3000, "\0"]
# The toy's `slow` is left out, because it takes as many steps as the request says.
SIZES = [0, 1, 2, 3, 5, 33, -1, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]
SECRETS = ("Traceback", 'File "', "site-packages", ".py", "its log says why", "0x7f")


@pytest.mark.parametrize("counts", [FAST, pytest.param(FULL, marks=pytest.mark.slow)], ids=["fast", "full"])
def test_hostile_requests(toy_server, front_end, counts):
    assert counts is FAST or sum(counts.values()) >= 100_000
    if counts is FULL and front_end == "python":
        counts = {**FAST, "grpc": FULL["grpc"], "sockets": FULL["sockets"]}  # the rest does not depend on the front end
    ended = threading.Event()
    asked: Counter[int] = Counter()
    with Caller(toy_server.port) as caller, ThreadPoolExecutor(8) as pool:

        def bystander(number):
            rng = np.random.default_rng(number)
            while not ended.is_set():
                x = rng.standard_normal((1 + asked[number] % 3, 3)).astype(np.float32)
                np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x, rtol=1e-6)
                asked[number] += 1

        beside = [pool.submit(bystander, number) for number in range(2)]
        try:
            hostile = [
                pool.submit(attack, toy_server, count, seed)
                for seed, (attack, count) in enumerate((ATTACKS[name], count) for name, count in counts.items())
            ]
            codes: Counter[str] = sum((one.result() for one in hostile), Counter())
        finally:
            ended.set()
        for one in beside:
            one.result()
    assert min(asked.values()) > 10
    assert codes.total() == sum(counts.values())
    # There were answers, and refusals by the parser, by the checks and by the model.
    assert {"OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "200", "400", "404"} <= set(codes)
    assert {"UNKNOWN", "500", "DATA_LOSS"}.isdisjoint(codes), codes


@pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.slow)], ids=["fast", "full"])
def test_hostile_configurations(toy, count):
    """A hostile reload may remove every model, but the server lives on and takes the next good reload."""
    rng, before = random.Random(0), followers()
    codes: Counter[tuple[str, bool]] = Counter()
    server = start_server(toy, allow_reload=True)
    x = np.ones((1, 3), np.float32)
    good = protos.ReloadConfigRequest()
    good.config.model_config_list.config.add(name="vae", base_path=str(toy), model_platform="tensorflow")
    try:
        with Caller(server.port) as caller:
            method = caller.channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
            for number in range(count):
                request = hostile_configuration(rng, toy)
                data = bytearray(request.SerializeToString())
                if rng.random() < 0.3 and data:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                try:
                    method(bytes(data), timeout=60)
                except grpc.RpcError as error:
                    check(error.details())
                    codes[error.code().name, error.details() == "the server failed; its log says why"] += 1
                else:
                    codes["OK", False] += 1
                if number % 10 == 0:
                    method(good.SerializeToString(), timeout=60)
                    np.testing.assert_allclose(caller.predict("double", x=x)["y"], 2 * x)
            method(good.SerializeToString(), timeout=60)
            assert server.catalog.versions() == {"vae": [1]}
    finally:
        server.stop(grace_s=5)
    assert {code for code, _ in codes} >= {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNKNOWN"}
    assert not any(failed for _, failed in codes), codes
    assert followers() == before, "models that are gone leave no threads"


def followers():
    return sum(thread.name == "versions" for thread in threading.enumerate())


def hostile_configuration(rng, toy):
    request = protos.ReloadConfigRequest()
    models = request.config.model_config_list.config
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        model = models.add()
        model.name = rng.choice(["vae", "vae", "vae", "b", "", "\0", "é" * 300, "../x"])
        model.base_path = rng.choice(
            [
                str(toy),
                str(toy),
                str(toy),
                "",
                "models",
                "/nope",
                "/proc",
                "/proc/self/fd",
                "/dev/null",
                "/\0",
                "/" + "a" * 300,
                "s3://x",
            ]
        )
        model.model_platform = rng.choice(["tensorflow", "tensorflow", "tensorflow", "tensorflow", "", "onnx"])
        choose_policy(rng, model.model_version_policy)
        if rng.random() < 0.3:
            model.version_labels[rng.choice(["stable", "", "\0"])] = rng.choice([1, 1, 2, -1, 1 << 62])
    return request


def choose_policy(rng, policy):
    kind = rng.randrange(4)
    if kind == 0:
        policy.latest.num_versions = rng.choice([0, 4_294_967_295])
    elif kind == 1:
        policy.all.SetInParent()
    elif kind == 2:
        policy.specific.versions.extend(rng.choice([[], [1], [1, 9], [-1, 1 << 62]]))


def straight_to_the_handlers(server, count, seed):
    """Sends requests to the gRPC methods without a connection."""
    rng = random.Random(seed)
    codes: Counter[str] = Counter()
    # Reload has its own test; health does not depend on models.
    paths = [path for path in server.methods.paths if "Reload" not in path and "Health" not in path]
    for _ in range(count):
        path = PREDICT if rng.random() < 0.8 else rng.choice(paths)
        data = hostile_bytes(rng)
        try:
            server.methods.answer(path, rng.choice([data, memoryview(data)]), Call())
        except StatusError as error:
            check(error.message)
            codes[error.code.name] += 1
        else:
            codes["OK"] += 1
    return codes


def straight_to_the_application(server, count, seed):
    """Sends HTTP requests to the WSGI application without a connection."""
    limits = server.config.limits
    entrance = Entrance("REST", Monitor(server.catalog.knows), open_requests=limits.open_requests)
    application = rest_server.Application(Api(server.catalog, limits), entrance, timeout_s=60, metrics_path="/metrics")
    rng = random.Random(seed)
    codes: Counter[str] = Counter()
    for _ in range(count):
        body = hostile_json(rng)
        environ = {"REQUEST_METHOD": rng.choice(["POST", "POST", "POST", "GET", "PUT"]), "wsgi.input": io.BytesIO(body)}
        environ["PATH_INFO"] = hostile_path(rng)
        wsgiref.util.setup_testing_defaults(environ)
        said: list[str] = []
        [answer] = application(environ, lambda status, headers, said=said: said.append(status))
        check(answer.decode())
        codes[said[0].split()[0]] += 1
    return codes


def over_grpc(server, count, seed):
    rng = random.Random(seed)
    codes: Counter[str] = Counter()
    services = {"PredictionService": ["Predict", "GetModelMetadata", "Classify", "Nothing"], "Model": ["x"]}
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for _ in range(count):
            service = rng.choice(list(services))
            path = f"/tensorflow.serving.{service}/{rng.choice(services[service])}"
            try:
                channel.unary_unary(path)(hostile_bytes(rng), timeout=60)
            except grpc.RpcError as error:
                check(error.details())
                codes[error.code().name] += 1
            else:
                codes["OK"] += 1
    return codes


def over_http(server, count, seed):
    rng = random.Random(seed)
    codes: Counter[str] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    for _ in range(count):
        path = "/v1/models/vae:predict" if rng.random() < 0.5 else "/v1/models/vae/versions/1:predict"
        connection.request("POST", path, hostile_json(rng))
        response = connection.getresponse()
        check(response.read().decode())
        codes[str(response.status)] += 1
    connection.close()
    return codes


def over_raw_sockets(server, count, seed):
    """Sends bytes that are not HTTP/2 or HTTP, or that end in the middle."""
    rng = random.Random(seed)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    head = b"POST /v1/models/vae:predict HTTP/1.1\r\nHost: x\r\n"
    for number in range(count):
        data = rng.choice(
            [
                rng.randbytes(rng.randrange(1, 300)),
                preface + rng.randbytes(rng.randrange(300)),
                preface + struct.pack(">IBI", rng.getrandbits(32), rng.randrange(12), rng.getrandbits(31))[1:] * 9,
                head + b"Content-Length: %d\r\n\r\n" % rng.choice([-1, 0, 5, 10**9, 10**30]) + b"{",
                head + b"Transfer-Encoding: chunked\r\n\r\n" + rng.choice([b"zz\r\n", b"fffffffff\r\n{", b"-1\r\n"]),
                head + b"X: " + b"a" * rng.choice([10, 300_000]) + b"\r\n\r\n",
                b"GET " + rng.randbytes(50) + b" HTTP/1.1\r\n\r\n",
            ]
        )
        port = server.port if number % 2 else server.rest_port
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            try:
                raw.sendall(data)
                if rng.random() < 0.3:
                    raw.shutdown(socket.SHUT_WR)
                    check(raw.recv(4096).decode("latin-1"))
            except OSError:
                pass  # the server closed the connection, as it should
    return Counter(sockets=count)


ATTACKS = {"handlers": straight_to_the_handlers, "bodies": straight_to_the_application, "grpc": over_grpc}
ATTACKS |= {"http": over_http, "sockets": over_raw_sockets}


def check(message):
    for secret in SECRETS:
        assert secret not in message, message


def hostile_bytes(rng):
    """Returns a PredictRequest with wrong values, whose bytes are usually damaged too."""
    data = bytearray(hostile_request(rng).SerializeToString())
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(data)
    if kind == 1:
        return rng.randbytes(rng.randrange(200))
    if kind == 2:
        return bytes(data[: rng.randrange(len(data) + 1)])
    if kind == 3:
        at = rng.randrange(len(data) + 1)
        data[at:at] = rng.choice([b"\xff" * 9 + b"\x01", rng.randbytes(rng.randrange(1, 30)), bytes(data)])
        return bytes(data)
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def hostile_request(rng):
    request = protos.PredictRequest()
    spec = request.model_spec
    spec.name = rng.choice(["vae", "vae", "vae", "vae", "", "x", "../../etc/passwd", "é" * 50])
    spec.signature_name = rng.choice(SIGNATURES)
    if rng.random() < 0.1:
        spec.version.value = rng.choice([1, 1, *SIZES])
    elif rng.random() < 0.05:
        spec.version_label = "stable"
    alias = "index" if spec.signature_name in ("ran", "version") else "x"
    for name in rng.choice([[alias], [alias], [alias], [], [alias, "y"], ["\0"]]):
        if rng.random() < 0.5:
            rows = np.full((rng.randrange(4), 3), rng.choice([0, 1e30, np.nan, np.inf]), np.float32)
            tensors.write(request.inputs[name], np.zeros(rng.randrange(3), np.int32) if alias == "index" else rows)
        if rng.random() < 0.5:
            damage(rng, request.inputs[name])
    request.output_filter.extend(rng.choice([[], [], ["y"], ["y", "y"], ["z"]]))
    return request


def damage(rng, tensor):
    what = rng.randrange(6)
    if what == 0:
        tensor.dtype = rng.choice([*range(0, 30), 101, 119, 9999])
    elif what == 1:
        tensor.tensor_shape.dim.add(size=rng.choice(SIZES))
    elif what == 2:
        tensor.tensor_content = rng.randbytes(rng.choice([0, 3, 12, 13, 5000]))
    elif what == 3:
        tensor.float_val.extend([rng.random()] * rng.randrange(20))
        tensor.string_val.extend([rng.randbytes(5)] * rng.randrange(3))
    elif what == 4:
        tensor.tensor_shape.unknown_rank = True
    else:
        del tensor.tensor_shape.dim[:]
        for _ in range(rng.choice([1, 2, 3, 40])):
            tensor.tensor_shape.dim.add(size=rng.choice(SIZES))


def hostile_path(rng):
    good = ["/v1/models/vae:predict", "/v1/models/vae/versions/1:predict", "/v1/models/vae", "/v1/models/vae/metadata"]
    bad = [
        "/", "", "/v1/models/:predict", "/v1/models/x:predict", "/v1/models/vae/labels/x:predict",
        "/v1/models/vae/versions/99999999999999999999:predict", "/v1/models/vae:classify", "/v1/models/vae:regress",
        "/v1/models/" + "é" * 200, "/v1/models/vae/versions/-1", "/../../etc/passwd", "/v1/models/vae\0:predict",
    ]  # fmt: skip
    path = rng.choice(good if rng.random() < 0.7 else bad)
    return path.encode().decode("latin-1")


def hostile_json(rng):
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice([b"", b"[", b"[" * 50_000, b'{"a":' * 5000, b"\xff\xfe", b"nul", rng.randbytes(50)])
    key = rng.choice(["instances", "inputs", "inputs", "signature_name"])
    body = {"signature_name": rng.choice(SIGNATURES), key: hostile_value(rng, 0)}
    if kind > 2:
        body = {"signature_name": rng.choice(["double", "negate", "finite"])}
        body[rng.choice(["instances", "inputs"])] = [[rng.choice([0, 1.5, 1e39, -1e400, hostile_value(rng, 2)])] * 3]
    data = bytearray(json.dumps(body).encode())
    if rng.random() < 0.3:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def hostile_value(rng, depth):
    if depth < 4 and rng.random() < 0.6:
        items = [hostile_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return items if rng.random() < 0.7 else dict(zip(["x", "b64", "y", "index"], items, strict=False))
    return rng.choice([None, True, "", "text", "\ud800", {"b64": "AA=="}, {"b64": 5}, 0, 1, -1.5, 10**400, 1e308, 1])
