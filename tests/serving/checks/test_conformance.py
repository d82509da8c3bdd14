"""`tfpipe check-server` against the real server, and against servers that differ."""

import contextlib
import json
from concurrent import futures

import grpc
import numpy as np
import pytest
from helpers import slow
from serving_tools import Caller

from serving.checks import conformance
from serving.checks.api_model import ECHOED
from serving.checks.json_cases import Refused, answers
from serving.checks.probe import Asker, Differs
from serving.protocol import protos, tensors
from serving.protocol.names import SIGNATURES, UNLIMITED, WARMUP_FILE
from tfpipe.cli.main import main
from tfpipe.data.records import read_records


@pytest.mark.parametrize("front_end", ["native", slow("python")], indirect=True)
def test_the_embedded_server_conforms(exported, front_end, shared_server, capsys):
    running = shared_server(exported.path.parent, front_end)
    arguments = [f"127.0.0.1:{running.port}", "--rest", f"127.0.0.1:{running.rest_port}", "--json"]
    status = main(["check-server", *arguments])
    said = capsys.readouterr()
    assert status == 0, said.err
    result = json.loads(said.out)
    assert result["differ"] == {}
    assert result["checks"] >= 45


@pytest.fixture(scope="module")
def api_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "model"
    assert main(["check-server", "--write-api-model", str(folder)]) == 0
    return folder


def test_the_embedded_server_has_the_api(api_model, front_end, shared_server, capsys):
    running = shared_server(api_model, front_end)
    address = [f"127.0.0.1:{running.port}", "--rest", f"127.0.0.1:{running.rest_port}"]
    status = main(["check-server", *address, "--api-model", "vae", "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    result = json.loads(said.out)
    assert result["differ"] == {}
    assert result["checks"] > 300


def test_a_server_of_another_model_differs_in_what_that_lacks(toy, shared_server, capsys):
    running = shared_server(toy, "auto")
    address = [f"127.0.0.1:{running.port}", "--rest", f"127.0.0.1:{running.rest_port}"]
    assert main(["check-server", *address, "--api-model", "vae", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    found = result["differ"]
    assert all("FAILED_PRECONDITION" in found[f"Predict, {name}: typed values"] for name in ECHOED)
    assert len(found) > 200
    assert result["error"] == f"{address[0]} differs in {len(found)} of {result['checks']} checks"
    assert result["code"] == 1


@pytest.mark.parametrize(
    ("found", "expected", "alike"),
    [
        ((200, {"outputs": [1]}), {"outputs": [1]}, True),
        ((200, {"outputs": [1.0]}), {"outputs": [1]}, False),
        ((200, {"outputs": [1]}), {"outputs": [1.0]}, False),
        ((200, {"outputs": [True]}), {"outputs": [1]}, False),
        ((200, {"outputs": [float("nan")]}), {"outputs": [float("nan")]}, True),
        ((200, {"outputs": [0.1 + 1e-9]}), {"outputs": [0.1]}, True),
        ((200, {"outputs": [1, 1]}), {"outputs": [1]}, False),
        ((200, {"outputs": 1, "more": 1}), {"outputs": 1}, False),
        ((500, {"outputs": [1]}), {"outputs": [1]}, False),
        ((400, {"error": "no rows here"}), Refused("no rows"), True),
        ((400, {"error": "something"}), Refused("no rows"), False),
        ((400, {}), Refused(""), False),
        ((500, {"error": "no rows"}), Refused("no rows"), False),
        ((200, {"outputs": [1]}), Refused(""), False),
    ],
)
def test_an_answer_is_compared_by_value_and_type(found, expected, alike):
    class Answering(Asker):
        def rest(self, verb, path, body=None):
            return found

    with contextlib.nullcontext() if alike else pytest.raises(Differs):
        answers(Answering(conformance.Target(grpc="127.0.0.1:1")), "{}", expected)


def test_what_cannot_be_checked_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["check-server", "--write-api-model", str(tmp_path)]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert main(["check-server"]) == 2
    assert "give the server's gRPC address" in capsys.readouterr().err


@pytest.mark.slow
def test_the_server_conforms_with_a_model_that_has_a_prior(prior_server):
    target = conformance.Target(grpc=f"127.0.0.1:{prior_server.port}", rest=f"127.0.0.1:{prior_server.rest_port}")
    found = dict(conformance.conformance(target))
    assert {name: said for name, said in found.items() if said} == {}
    assert "a window continues another" in found


def test_the_models_warm_up_requests_are_answered(exported, server):
    """Sends those of one row; the others differ from them in their number of rows alone."""
    records = [protos.PredictionLog.FromString(record) for record in read_records(exported.path / WARMUP_FILE)]
    with Caller(server.port) as caller:
        for request in [log.predict_log.request for log in records][: len(SIGNATURES)]:
            assert caller._predict(request, timeout=60).outputs


@pytest.fixture
def careless(target):
    """A proxy of the real server that gets some answers wrong."""
    channel = grpc.insecure_channel(target, options=UNLIMITED)

    class Careless(grpc.GenericRpcHandler):
        def service(self, call):
            def answer(data, context):
                try:
                    reply = channel.unary_unary(call.method)(data, timeout=60)
                except grpc.RpcError as error:
                    # Wrong: it changes the status code.
                    code = error.code() if error.code() != grpc.StatusCode.NOT_FOUND else grpc.StatusCode.INTERNAL
                    context.abort(code, error.details())
                request = protos.PredictRequest.FromString(data) if call.method.endswith("Predict") else None
                if request is not None and request.model_spec.signature_name == "decode":
                    # Wrong: it answers every row with the first row.
                    response = protos.PredictResponse.FromString(reply)
                    mel = tensors.from_proto(response.outputs["mel"], max_bytes=1 << 30)
                    mel = np.repeat(mel[:1], len(mel), axis=0)
                    response.outputs["mel"].CopyFrom(tensors.to_proto(mel))
                    reply = response.SerializeToString()
                return reply

            return grpc.unary_unary_rpc_method_handler(answer)

    running = grpc.server(
        futures.ThreadPoolExecutor(8),
        handlers=[Careless()],
        options=UNLIMITED,
    )
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}"
    running.stop(0)
    channel.close()


def test_a_server_that_differs_is_told(careless):
    found = dict(conformance.conformance(conformance.Target(grpc=careless)))
    different = {name for name, difference in found.items() if difference}
    assert different == {
        "a row's answer does not depend on its batch",
        "Predict refuses an unknown model",
        "Predict refuses an unknown version",
        "GetModelMetadata refuses an unknown model",
        "GetModelStatus refuses an unknown model",
        "GetModelStatus refuses an unknown version",
    }
    assert "INTERNAL" in found["Predict refuses an unknown model"]


def test_no_server_is_one_line(capsys):
    assert main(["check-server", "127.0.0.1:1", "--wait-s", "0"]) == 1
    assert "127.0.0.1:1: no server listens there; start it with" in capsys.readouterr().err
