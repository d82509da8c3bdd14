"""Metrics under TensorFlow Serving's names, and log lines."""

import http.client
import json
import logging

import numpy as np
import pytest
from serving_tools import Caller, metrics_page, samples, start_server

from serving.protocol.names import METRICS_PATH
from serving.protocol.status import Code, StatusError
from serving.server.admission import Call
from serving.server.metrics import Monitor, configure_logging

ROWS = np.ones((1, 3), np.float32)


def test_requests_are_counted_and_timed(toy):
    server = start_server(toy, metrics_path=METRICS_PATH)
    try:
        with Caller(server.port) as caller, Caller(server.port, model='x"\\\n') as stranger:
            for _ in range(3):
                caller.predict("double", x=ROWS)
            caller.refusal("nope", x=ROWS)
            stranger.refusal("double", x=ROWS)
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
        connection.request("POST", "/v1/models/vae:predict", json.dumps({"instances": [[1, 2, 3]]}))
        assert connection.getresponse().status == 200
        connection.close()
        status, kind, text = metrics_page(server)
        assert (status, kind) == (200, "text/plain")
        found = samples(text)
        count = ":tensorflow:serving:request_count"
        assert found[count, 'model_name="vae",status="OK"'] == 4
        assert found[count, 'model_name="vae",status="FAILED_PRECONDITION"'] == 1
        assert found[count, 'model_name="",status="NOT_FOUND"'] == 1
        for entrypoint, requests in (("GRPC", 4), ("REST", 1)):
            labels = f'model_name="vae",API="Predict",entrypoint="{entrypoint}"'
            name = ":tensorflow:serving:request_latency"
            assert found[f"{name}_count", labels] == requests
            assert found[f"{name}_sum", labels] > 0
            buckets = [v for (n, where), v in found.items() if n == f"{name}_bucket" and where.startswith(labels)]
            assert buckets == sorted(buckets)
            assert found[f"{name}_bucket", f'{labels},le="+Inf"'] == requests
            assert (f"{name}_bucket", f'{labels},le="18"') in found
        assert found[":tensorflow:serving:runtime_latency_count", 'model_name="vae",API="Predict",runtime="TF1"'] == 4
    finally:
        server.stop(grace_s=5)


def test_no_page_unless_asked_for(server):
    assert metrics_page(server)[0] == 400


def test_failed_requests_are_logged_at_a_bounded_rate(caplog):
    monitor = Monitor(lambda name: True)
    for number in range(1000):
        with (
            pytest.raises(StatusError),
            monitor.watch("Predict", entrypoint="GRPC", model="a\nb" * 1000, call=Call()),
        ):
            raise StatusError(Code.NOT_FOUND, f"line one\nline two {number}")
    said = [record.getMessage() for record in caplog.records]
    assert 5 <= len(said) < 100
    assert all("\n" not in line and len(line) < 1000 for line in said)
    assert "NOT_FOUND" in said[0]


def test_a_bug_keeps_its_stack_in_the_log(caplog):
    with (
        pytest.raises(StatusError) as info,
        Monitor(lambda name: True).watch("Predict", entrypoint="GRPC", model="a", call=Call()),
    ):
        raise ZeroDivisionError("a secret")
    assert (info.value.code, "secret" in info.value.message) == (Code.INTERNAL, False)
    assert "ZeroDivisionError" in caplog.text


def test_json_lines(capsys, monkeypatch):
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    configure_logging("json")
    root.warning("two\nlines %d", 5)
    try:
        raise ValueError("inside")
    except ValueError:
        root.exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["message"], first["time"] > 0) == ("WARNING", "two\nlines 5", True)
    assert "ValueError: inside" in second["stack"]


def test_the_page_forgets_models_that_are_gone_once_it_knows_many():
    served = {"stays"}
    monitor = Monitor(lambda name: name in served)
    for name in ["stays", *(f"m{number}" for number in range(5000))]:
        served.add(name)
        with monitor.watch("Predict", entrypoint="GRPC", model=name, call=Call()):
            pass
        served.intersection_update({"stays", name})
    found = samples(monitor.page())
    models = {labels.split('"')[1] for _, labels in found}
    assert {"stays", "m4999"} <= models
    assert len(models) <= 2000
    assert found[":tensorflow:serving:request_count", 'model_name="stays",status="OK"'] == 1
